"""Fleets made up for benchmarks."""

from __future__ import annotations

from gpuxds.fleet.endpoint import Endpoint, Gpu, MetricsTargets

GPUS = {"H100-80": 80, "A100-80": 80, "A100-40": 40, "L40S": 48, "L4": 24}
"""Model -> memory in GB."""
WIDTH = 250


def loopback(number: int) -> str:
    """An address of this machine: all of 127/8 is, so one listening socket can be many servers."""
    return f"127.{1 + number // WIDTH // WIDTH}.{number // WIDTH % WIDTH}.{1 + number % WIDTH}"


def fleet_of(count: int) -> list[Endpoint]:
    """Endpoints of all GPU types in turn."""
    models = list(GPUS)
    return [
        Endpoint(
            f"e{n}", "p", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 8000,
            Gpu(models[n % 5], GPUS[models[n % 5]]), 256,
            MetricsTargets("http://x"), ip=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
        )
        for n in range(count)
    ]  # fmt: skip


def policy_text(count: int, port: int, *, listener_port: int = 10_000, interval_s: float = 1.0) -> str:
    """A policy whose endpoints are this machine's addresses on one port, where `page_server` listens."""
    models = list(GPUS)
    lines = [
        "version: 1",
        f"listener: {{address: 127.0.0.1, port: {listener_port}, access_log: false}}",
        f"signals: {{engine: {{interval: {interval_s:g}s}}}}",
        "pools:",
        "  - name: p",
        "    endpoints:",
    ]
    lines += [
        f"      - {{id: e{n}, address: '{loopback(n)}:{port}', gpu: {{model: {models[n % 5]}}}}}"
        for n in range(count)
    ]
    return "\n".join(lines) + "\n"
