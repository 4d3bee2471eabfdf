"""Tables for people: fleet, proxies and explanations, 80 columns wide and without colour when piped."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

SHOWN_CHARS = 110
COLOURS = {"serving": "green", "warming": "cyan", "suspect": "yellow", "draining": "blue", "drained": "dim"}


def console() -> Console:
    """Standard output; as wide as the terminal, and wide enough for whole rows when piped."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=200)


def health_text(health: str) -> Text:
    """A health state in its colour."""
    return Text(health, style=COLOURS.get(health, "red"))


def number(value: float | None, form: str = ".0f", unit: str = "") -> str:
    """A number, or a dash when it is not known."""
    return "–" if value is None else f"{value:{form}}{unit}"


def age(value: float | None) -> str:
    """An age in seconds; a dash when nothing was ever seen."""
    return number(value, ".1f", " s")


def columns(*names: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name != "why")
    return table


def endpoints_table(answer: dict[str, Any]) -> RenderableType:
    """One row per endpoint."""
    right = ("weight", "share", "run", "wait", "kv", "age")
    table = columns("endpoint", "gpu", "health", "weight", "share", "run", "wait", "kv", "age", "why", right=right)
    totals: dict[str, int] = {}
    for row in answer["endpoints"]:
        if row["envoy_health"] == "HEALTHY" and row["in_eds"]:
            totals[row["cluster"]] = totals.get(row["cluster"], 0) + row["weight"]
    for row in answer["endpoints"]:
        serving = row["envoy_health"] == "HEALTHY" and row["in_eds"]
        signals = row["signals"]
        share = row["weight"] / totals[row["cluster"]] if serving else None
        kv = signals["kv_usage"]
        table.add_row(
            row["id"],
            row["gpu"]["model"],
            health_text(row["health"]),
            str(row["weight"]) if serving else "–",
            number(None if share is None else 100 * share, ".0f", "%"),
            number(signals["running"]),
            number(signals["waiting"]),
            number(None if kv is None else 100 * kv, ".0f", "%"),
            age(row["load_age_s"]),
            row["reason"],
        )
    return Group(
        table, *(Text(f"! {pool['pool']}: {a}", "red") for pool in answer["pools"] for a in pool["alarms"])
    )


def proxies_table(answer: dict[str, Any]) -> RenderableType:
    """One row per proxy and type."""
    table = columns("proxy", "group", "mode", "type", "sent", "acked", "sync", "rejected")
    for proxy in answer["proxies"]:
        for index, kind in enumerate(proxy["types"]):
            table.add_row(
                proxy["node_id"] if index == 0 else "",
                proxy["group"] if index == 0 else "",
                proxy["mode"] if index == 0 else "",
                kind["type_url"].rsplit(".", 1)[-1],
                kind["sent_version"][:12],
                kind["acked_version"][:12],
                Text("yes", "green") if kind["in_sync"] else Text("no", "yellow"),
                Text(told(kind["nack_message"]), "red"),
            )
    return table


def told(message: str) -> str:
    """A rejection in one line: Envoy repeats the whole resource before or after the reason; --json has it all."""
    line = " ".join(message.split())
    return line if len(line) <= 2 * SHOWN_CHARS else f"{line[:SHOWN_CHARS]} … {line[-SHOWN_CHARS:]}"


def explanation(answer: dict[str, Any]) -> RenderableType:
    """Each endpoint's factors, their product and what went into them."""
    parts: list[RenderableType] = [
        Text(
            f"{pool['pool']}: {pool['strategy']}{overridden(pool)}, "
            f"{pool['healthy']} of {pool['endpoints']} endpoints serving"
        )
        for pool in answer["pools"]
    ]
    for row in answer["endpoints"]:
        table = columns("factor", "value", "why", right=("value",))
        for term in row["terms"]:
            table.add_row(f"  {term['name']}", number(term["value"], ".4g"), term["why"])
        table.add_row(Text("  product", "bold"), number(row["product"], ".4g"), "")
        head = Text.assemble(
            "\n",
            (row["id"], "bold"),
            "  ",
            health_text(row["health"]),
            f"  weight {row['weight']}",
            f"  {row['reason']}",
        )
        parts += [head, table, inputs_line(row["inputs"])]
    return Group(*parts)


def overridden(pool: dict[str, Any]) -> str:
    """A note where the strategy is not the policy's."""
    return " (override, not the policy's)" if pool["strategy_source"] == "override" else ""


def strategies_table(answer: dict[str, Any]) -> RenderableType:
    """One row per pool."""
    table = columns("pool", "strategy", "from", "parameters")
    for pool in answer["pools"]:
        parameters = ", ".join(f"{name}={value}" for name, value in pool["strategy"].items() if name != "name")
        table.add_row(pool["pool"], pool["strategy"]["name"], pool["source"], parameters)
    return table


def loads_table(rows: list[dict[str, Any]], first: str) -> RenderableType:
    """One row per server or provider."""
    right = ("active", "run", "wait", "capacity", "sent", "failed", "mean")
    table = columns(first, "active", "run", "wait", "capacity", "sent", "failed", "mean", right=right)
    for row in rows:
        table.add_row(
            row[first],
            number(row["active"]),
            number(row["running"]),
            number(row["waiting"]),
            number(row["capacity"]),
            number(row["total"]),
            number(row["failed"]),
            number(row["average_response_s"], ".2f", " s"),
        )
    return table


def inputs_line(inputs: list[dict[str, Any]]) -> Text:
    """What was read, and how old it is."""
    known = [item for item in inputs if item["freshness"] != "absent"]
    text = ", ".join(f"{item['name']} {number(item['value'], '.4g')} ({age(item['age_s'])})" for item in known)
    absent = ", ".join(item["name"] for item in inputs if item["freshness"] == "absent")
    return Text(f"  inputs: {text or 'none'}" + (f"; absent: {absent}" if absent else ""), style="dim")
