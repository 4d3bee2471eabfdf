"""What tables for people say: fleet, proxies, explanations, loads and strategies."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuxds.cli.layout import Prose, table

SHOWN_CHARS = 110
WIDE = 110
"""Columns from which `endpoints` has room for everything."""
COLOURS = {"serving": "green", "warming": "cyan", "suspect": "yellow", "draining": "blue", "drained": "dim"}
XDS = {"Cluster": "CDS", "ClusterLoadAssignment": "EDS", "Listener": "LDS", "RouteConfiguration": "RDS"}
"""The service of a resource type, as Envoy's people call it."""


def health_text(health: str) -> Text:
    """A health state in its colour."""
    return Text(health, style=COLOURS.get(health, "red"))


def number(value: float | None, form: str = ".0f", unit: str = "") -> str:
    """A number, or a dash when it is not known."""
    return "–" if value is None else f"{value:{form}}{unit}"


def age(value: float | None) -> str:
    """An age in seconds; a dash when nothing was ever seen."""
    return number(value, ".1f", " s")


def endpoints_table(answer: dict[str, Any], width: int) -> RenderableType:
    """One row per endpoint; a narrow one leaves out weight and age, which `explain` has."""
    names = ["endpoint", "gpu", "health", "weight", "share", "run", "wait", "kv", "age", "why"]
    kept = [name for name in names if width >= WIDE or name not in ("weight", "age")]
    totals: dict[str, int] = {}
    for row in answer["endpoints"]:
        if row["envoy_health"] == "HEALTHY" and row["in_eds"]:
            totals[row["cluster"]] = totals.get(row["cluster"], 0) + row["weight"]
    cells = [endpoint_cells(row, totals) for row in answer["endpoints"]]
    rows = [[found[name] for name in kept] for found in cells]
    return Group(
        table(kept, rows, width, right=("weight", "share", "run", "wait", "kv", "age"), prose=Prose.CUT),
        *(Text(f"! {pool['pool']}: {a}", "red") for pool in answer["pools"] for a in pool["alarms"]),
    )


def endpoint_cells(row: dict[str, Any], totals: dict[str, int]) -> dict[str, str | Text]:
    """Everything the table can say of one endpoint; `totals` are the clusters' weights that serve."""
    serving = row["envoy_health"] == "HEALTHY" and row["in_eds"]
    signals, kv = row["signals"], row["signals"]["kv_usage"]
    return {
        "endpoint": row["id"],
        "gpu": row["gpu"]["model"],
        "health": health_text(row["health"]),
        "weight": str(row["weight"]) if serving else "–",
        "share": number(100 * row["weight"] / totals[row["cluster"]] if serving else None, ".0f", "%"),
        "run": number(signals["running"]),
        "wait": number(signals["waiting"]),
        "kv": number(None if kv is None else 100 * kv, ".0f", "%"),
        "age": age(row["load_age_s"]),
        "why": row["reason"],
    }


def proxies_table(answer: dict[str, Any], width: int) -> RenderableType:
    """One row per proxy and type, and a line per rejection below."""
    rows: list[list[str | Text]] = []
    rejected = []
    for proxy in answer["proxies"]:
        for index, kind in enumerate(proxy["types"]):
            name = kind["type_url"].rsplit(".", 1)[-1]
            rows.append([
                *((proxy["node_id"], proxy["group"], proxy["mode"]) if index == 0 else ("", "", "")),
                XDS.get(name, name),
                kind["sent_version"][:12],
                kind["acked_version"][:12],
                Text("yes", "green") if kind["in_sync"] else Text("no", "yellow"),
            ])  # fmt: skip
            if kind["nack_message"]:
                rejected.append(
                    f"! {proxy['node_id']} rejected {XDS.get(name, name)}: {told(kind['nack_message'])}"
                )
    names = ("proxy", "group", "mode", "type", "sent", "acked", "sync")
    return Group(table(names, rows, width), *(Text(line, "red") for line in rejected))


def told(message: str) -> str:
    """A rejection in one line: Envoy repeats the whole resource before or after the reason; --json has it all."""
    line = " ".join(message.split())
    return line if len(line) <= 2 * SHOWN_CHARS else f"{line[:SHOWN_CHARS]} … {line[-SHOWN_CHARS:]}"


def explanation(answer: dict[str, Any], width: int) -> RenderableType:
    """Each endpoint's factors, their product and what went into them."""
    parts: list[RenderableType] = [
        Text(
            f"{pool['pool']}: {pool['strategy']}{overridden(pool)}, "
            f"{pool['healthy']} of {pool['endpoints']} endpoints serving"
        )
        for pool in answer["pools"]
    ]
    parts += [Text(f"{found['pool']}: {rule}", "dim") for found in answer["rules"] for rule in found["rules"]]
    for row in answer["endpoints"]:
        rows: list[list[str | Text]] = [
            [f"  {term['name']}", number(term["value"], ".4g"), term["why"]] for term in row["terms"]
        ]
        rows.append([Text("  product", "bold"), number(row["product"], ".4g"), ""])
        head = Text.assemble(
            "\n",
            (row["id"], "bold"),
            f"  in {row['cluster']}" if row["cluster"] != row["pool"] else "",
            "  ",
            health_text(row["health"]),
            f"  weight {row['weight']}",
            f"  {row['reason']}",
        )
        factors = table(("factor", "value", "why"), rows, width, right=("value",), prose=Prose.WRAP)
        parts += [head, factors, *guard_line(row["guard"]), inputs_table(row["inputs"])]
    return Group(*parts)


def guard_line(guard: dict[str, Any] | None) -> list[Text]:
    """The endpoint's limit and whether its guard is there; nothing for an endpoint without one."""
    if guard is None:
        return []
    waiting = f", {guard['max_waiting']} wait up to {guard['wait_s']:g} s" if guard["max_waiting"] else ""
    limit = f"  guard on port {guard['port']}: {guard['capacity']} run at most{waiting}; "
    connected = guard["connected"]
    if connected == 1:
        return [Text(limit + "connected")]
    fault = f"{connected} connected, and each lets as many run" if connected else "not connected: nobody may listen"
    return [Text(limit + fault, "red")]


def overridden(pool: dict[str, Any]) -> str:
    """A note where the strategy is not the policy's."""
    return " (override, not the policy's)" if pool["strategy_source"] == "override" else ""


def strategies_table(answer: dict[str, Any], width: int) -> RenderableType:
    """One row per pool."""
    rows = []
    for pool in answer["pools"]:
        parameters = ", ".join(f"{name}={value}" for name, value in pool["strategy"].items() if name != "name")
        rows.append([pool["pool"], pool["strategy"]["name"], pool["source"], parameters])
    return table(("pool", "strategy", "from", "parameters"), rows, width, prose=Prose.WRAP)


def loads_table(rows: list[dict[str, Any]], first: str, width: int) -> RenderableType:
    """One row per server or provider."""
    names = (first, "active", "run", "wait", "capacity", "sent", "failed", "mean")
    cells = [
        [
            row[first],
            number(row["active"]),
            number(row["running"]),
            number(row["waiting"]),
            number(row["capacity"]),
            number(row["total"]),
            number(row["failed"]),
            number(row["average_response_s"], ".2f", " s"),
        ]
        for row in rows
    ]
    return table(names, cells, width, right=names[1:])


def inputs_table(inputs: list[dict[str, Any]]) -> Table:
    """What was read, by how old it is; what is not known comes last."""
    ages: dict[str, list[str]] = {}
    for item in sorted(inputs, key=lambda item: item["age_s"] if item["freshness"] != "absent" else 0.0):
        if item["freshness"] != "absent":
            ages.setdefault(age(item["age_s"]), []).append(f"{item['name']}={number(item['value'], '.4g')}")
    absent = [item["name"] for item in inputs if item["freshness"] == "absent"]
    found = Table(box=None, pad_edge=False, show_header=False, style="dim", padding=(0, 2, 0, 0))
    for old, read in [*ages.items(), *([("absent", absent)] if absent else [])]:
        found.add_row(f"  {old}", ", ".join(read))
    return found
