"""`python -m gpuxds.simulator`: fake GPU servers until stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from gpuxds.simulator.control import FakeFleet, Spec


async def serve(specs: list[Spec], control_port: int, host: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with FakeFleet(specs, control_port, host):
        await stop.wait()


def main() -> int:
    """Parse, serve, and say what went wrong in one line."""
    parser = argparse.ArgumentParser(prog="python -m gpuxds.simulator", description=__doc__)
    parser.add_argument("--fleet", required=True, help="name=TYPE:PORT,... for example h100=H100-80:18101")
    parser.add_argument("--control-port", type=int, default=18100, help="where faults are set")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    arguments = parser.parse_args()
    try:
        specs = [Spec.parse(text) for text in arguments.fleet.split(",")]
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(serve(specs, arguments.control_port, arguments.host))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
