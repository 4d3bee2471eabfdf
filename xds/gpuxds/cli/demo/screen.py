"""The demo's live view: endpoint, health, weight, share of traffic now, load, latency, and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuxds.cli.demo.story import Verdict, Watch
from gpuxds.cli.tables import health_text, number

BAR = 12
WINDOW_S = 4.0


def bar(share: float) -> Text:
    """A share as a bar and a percentage."""
    full = round(share * BAR)
    return Text.assemble(("█" * full, "cyan"), ("·" * (BAR - full), "dim"), f" {100 * share:3.0f} %")


def picture(watch: Watch, verdicts: Sequence[Verdict], doing: str) -> RenderableType:
    """Everything at a glance."""
    return Group(fleet_table(watch), traffic_line(watch), *map(verdict_line, verdicts), Text(doing, "bold"))


def fleet_table(watch: Watch) -> Table:
    """One row per endpoint; weights are Envoy's own, so that they stay true while the control plane is down."""
    title = "gpuxds demo: fake GPUs, real Envoy" + ("" if watch.answer else "   CONTROL PLANE DOWN, Envoy goes on")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("endpoint", "health"):
        table.add_column(name, no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("share now", no_wrap=True)
    for name in ("run", "wait", "ttft"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
    shares = watch.gauge.shares(watch.now() - WINDOW_S, watch.now())
    for endpoint in watch.stage.fleet:
        row = watch.row(endpoint.id)
        signals = row["signals"] if row else {"running": None, "waiting": None, "ttft_s": None}
        ttft = signals["ttft_s"]
        host = watch.hosts.get(endpoint.id)
        table.add_row(
            endpoint.id,
            health_text(row["health"]) if row else Text("?", "dim"),
            str(host["weight"]) if host else "–",
            bar(shares.get(endpoint.id, 0.0)),
            number(signals["running"]),
            number(signals["waiting"]),
            number(None if ttft is None else 1000 * ttft, ".0f", " ms"),
            row["reason"] if row else "",
        )
    return table


def traffic_line(watch: Watch) -> Text:
    """What clients see."""
    stats = watch.load.window(watch.now() - 10, watch.now())
    return Text(
        f"\nclients, last 10 s: {stats.count} answered, {stats.failed} failed, "
        f"first token p95 {1000 * stats.ttft_p95:.0f} ms, whole answer p95 {stats.e2e_p95:.1f} s\n",
        style="dim",
    )


def verdict_line(verdict: Verdict) -> Text:
    """One step of the story, told."""
    mark = ("✓ ", "green") if verdict.ok else ("✗ ", "red")
    return Text.assemble(mark, verdict.step, (f": {verdict.figures}", "dim"))


def shares_line(watch: Watch) -> Text:
    """Who gets what, in one line."""
    shares = watch.gauge.shares(watch.now() - WINDOW_S, watch.now())
    parts = (f"{endpoint.id} {100 * shares.get(endpoint.id, 0.0):.0f} %" for endpoint in watch.stage.fleet)
    stats = watch.load.window(watch.now() - 10, watch.now())
    return Text(f"  share now: {', '.join(parts)}; first token p95 {1000 * stats.ttft_p95:.0f} ms", "dim")
