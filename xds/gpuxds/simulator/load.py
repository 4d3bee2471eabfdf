"""An open-loop client: sends requests when the workload says, whatever became of earlier ones.

It measures what users see: time to the first token, time to the last, and whether the answer was complete. A
stream that ends without its `[DONE]` counts as failed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import aiohttp

from gpuxds.simulator.server import CHARS_PER_TOKEN, MODEL
from gpuxds.simulator.workload import Workload

KEEP = 50_000
FILLER = "lorem "
RETRY_NOTHING = aiohttp.ClientTimeout(total=None, sock_connect=5.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times are `time.monotonic` seconds."""

    started_at: float
    finished_at: float
    ttft_s: float
    """NaN when no token came."""
    endpoint: str
    """Fake server that answered; empty when none did."""
    error: str = ""
    """Empty when the answer was complete."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Outcomes in a few numbers; latencies in seconds, NaN when there are none."""

    count: int
    failed: int
    ttft_p50: float
    ttft_p95: float
    e2e_p50: float
    e2e_p95: float
    by_endpoint: Counter[str]
    errors: Counter[str]


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of all lie; NaN when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def summary(outcomes: Iterable[Outcome]) -> Stats:
    """Outcomes in a few numbers."""
    found = list(outcomes)
    good = [outcome for outcome in found if not outcome.error]
    ttft = [outcome.ttft_s for outcome in good]
    e2e = [outcome.finished_at - outcome.started_at for outcome in good]
    return Stats(
        count=len(good),
        failed=len(found) - len(good),
        ttft_p50=percentile(ttft, 0.5),
        ttft_p95=percentile(ttft, 0.95),
        e2e_p50=percentile(e2e, 0.5),
        e2e_p95=percentile(e2e, 0.95),
        by_endpoint=Counter(outcome.endpoint for outcome in good),
        errors=Counter(outcome.error for outcome in found if outcome.error),
    )


@dataclass(slots=True)
class Load:
    """Sends requests to `url` at `rate_rps` until cancelled."""

    url: str
    workload: Workload
    rate_rps: float
    outcomes: deque[Outcome] = field(default_factory=lambda: deque(maxlen=KEEP))
    open: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Send until cancelled; requests in flight then are dropped and not counted."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=RETRY_NOTHING) as session:
            try:
                due = time.monotonic()
                while True:
                    due += self.workload.gap_s(self.rate_rps)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    task = asyncio.ensure_future(self.send(session, *self.workload.request()))
                    self.open.add(task)
                    task.add_done_callback(self.open.discard)
            finally:
                for task in self.open:
                    task.cancel()
                await asyncio.gather(*self.open, return_exceptions=True)

    async def send(self, session: aiohttp.ClientSession, prompt_tokens: int, output_tokens: int) -> None:
        """One request, streamed; its outcome is kept."""
        prompt = (FILLER * (prompt_tokens * CHARS_PER_TOKEN // len(FILLER) + 1))[: prompt_tokens * CHARS_PER_TOKEN]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": output_tokens, "stream": True}
        started, ttft_s, endpoint, error, last = time.monotonic(), float("nan"), "", "", b""
        try:
            async with session.post(self.url, json=body) as response:
                endpoint = response.headers.get("x-fake-gpu", "")
                if response.status != 200:
                    error = f"status {response.status}: {(await response.text())[:120]}"
                async for part in response.content.iter_any():
                    if not last:
                        ttft_s = time.monotonic() - started
                    last = (last + part)[-16:]
            if not error and b"[DONE]" not in last:
                error = "stream ended early"
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        self.outcomes.append(Outcome(started, time.monotonic(), ttft_s, endpoint, error))

    def window(self, since: float, until: float) -> Stats:
        """Requests that finished between two moments."""
        return summary(outcome for outcome in self.outcomes if since <= outcome.finished_at <= until)
