"""`gpuxds top`: the fleet, live, with the keyboard at hand.

What a row says is made by plain functions; the application only shows them, asks the admin API once a second and
passes keys on. While the server is away the last picture stays and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar
from urllib.parse import quote

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from gpuxds.cli.client import DEFAULT, Admin, fetch
from gpuxds.cli.layout import shortened
from gpuxds.cli.tables import age, explanation, health_text, number, overridden
from gpuxds.errors import EnvironmentProblem, GpuxdsError

REFRESH_S = 1.0
LONGEST_ID, LONGEST_POOL = 24, 14
NARROW = 110
"""Columns of a terminal below which what matters least gives way to the reason."""
SPARED = ("weight", "ttft", "age")
MARGIN = 2
"""Columns on either side of an explanation."""
COLUMNS = ("endpoint", "pool", "health", "weight", "share", "run", "wait", "kv", "ttft", "age", "why")
SORTS = ("endpoint", "share", "run", "wait", "kv", "ttft", "health")
Ask = Callable[..., Awaitable[dict[str, Any]]]


def top(admin: Admin = DEFAULT) -> None:
    """Watch the fleet live: sort, filter, explain, drain by keyboard."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise EnvironmentProblem("top needs a terminal; for one table use: gpuxds endpoints")
    Top(admin, fetch).run()


def share_of(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """A serving endpoint's part of its cluster's weights, 0..1."""
    total = sum(r["weight"] for r in rows if r["cluster"] == row["cluster"] and serves(r))
    return row["weight"] / total if serves(row) and total else 0.0


def serves(row: dict[str, Any]) -> bool:
    """Whether an endpoint takes new requests."""
    return bool(row["in_eds"] and row["envoy_health"] == "HEALTHY")


def sort_key(name: str, rows: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    """Orders rows: numbers from the largest, what is unknown last, names from the first."""
    signals = {"run": "running", "wait": "waiting", "kv": "kv_usage", "ttft": "ttft_s"}
    if name == "share":
        return lambda row: -share_of(row, rows)
    if name in signals:
        return lambda row: -(row["signals"][signals[name]] or 0.0)
    if name == "health":
        return lambda row: (row["health"] == "serving", row["id"])
    return lambda row: (row["pool"], row["id"])


def shown(answer: dict[str, Any], sort: str, needle: str) -> list[dict[str, Any]]:
    """Rows that contain `needle` in what a person can read, in order."""
    rows = answer["endpoints"]
    words = needle.lower()
    kept = [
        r for r in rows if words in f"{r['id']} {r['pool']} {r['health']} {r['gpu']['model']} {r['labels']}".lower()
    ]
    return sorted(kept, key=sort_key(sort, rows))


def columns(width: int, pools: int) -> list[str]:
    """The columns that are shown: a single pool needs no column, and a narrow terminal has no room for all."""
    spared = {*(SPARED if width < NARROW else ()), *(("pool",) if pools < 2 else ())}
    return [name for name in COLUMNS if name not in spared]


def cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Text | str]:
    """One row of the table, by column."""
    signals = row["signals"]
    kv, ttft = signals["kv_usage"], signals["ttft_s"]
    return {
        "endpoint": Text(str(shortened(row["id"], LONGEST_ID)), "bold"),
        "pool": Text(str(shortened(row["pool"], LONGEST_POOL))),
        "health": health_text(row["health"]),
        "weight": number(row["weight"]) if serves(row) else "–",
        "share": number(100 * share_of(row, rows), ".0f", " %"),
        "run": number(signals["running"]),
        "wait": number(signals["waiting"]),
        "kv": number(None if kv is None else 100 * kv, ".0f", " %"),
        "ttft": number(None if ttft is None else 1000 * ttft, ".0f", " ms"),
        "age": age(row["load_age_s"]),
        "why": Text(row["reason"]),
    }


def headline(answer: dict[str, Any], sort: str, problem: str) -> Text:
    """Pools, alarms, and how the table is sorted."""
    text = Text()
    for pool in answer["pools"]:
        text.append(f"{pool['pool']} ", "bold")
        text.append(f"{pool['strategy']}{overridden(pool)}, {pool['healthy']} of {pool['endpoints']} serving   ")
        for alarm in pool["alarms"]:
            text.append(f"! {alarm}   ", "bold red")
    text.append(f"sorted by {sort}", "dim")
    if problem:
        text.append(f"\n{problem}", "bold red")
    return text


class Explain(ModalScreen[None]):
    """Why one endpoint has its weight."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,e", "app.pop_screen", "back")]
    CSS = f"Explain VerticalScroll {{ padding: 1 {MARGIN}; background: $surface; }}"

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self.answer = answer

    def compose(self) -> ComposeResult:
        """The explanation, scrollable."""
        yield VerticalScroll(Static(explanation(self.answer, self.app.size.width - 2 * MARGIN)))
        yield Footer()


class Top(App[None]):
    """The live view."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter"),
        Binding("e", "explain", "explain"),
        Binding("d", "drain", "drain"),
        Binding("u", "undrain", "undrain"),
        Binding("q", "quit", "quit"),
    ]
    CSS = (
        "#head { padding: 0 1; height: auto; } Input { dock: bottom; display: none; } Input.on { display: block; }"
    )

    def __init__(self, admin: str, ask: Ask) -> None:
        super().__init__()
        self.admin, self.ask = admin, ask
        self.answer: dict[str, Any] = {"pools": [], "endpoints": []}
        self.sort_by, self.needle, self.problem = SORTS[0], "", ""
        self.shown: list[str] = []
        """Columns of the table."""
        self.sure = ""
        """Endpoint for which `d` was pressed once; a second `d` drains it."""

    def compose(self) -> ComposeResult:
        """A headline, the table, an input for the filter."""
        yield Static(id="head")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Input(placeholder="show only rows with …")
        yield Footer()

    async def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(DataTable).focus()
        await self.look()
        self.set_interval(REFRESH_S, self.look)

    async def look(self) -> None:
        """Ask once, and draw."""
        try:
            self.answer, self.problem = await self.ask(self.admin, "/api/v1/endpoints"), ""
        except GpuxdsError as error:
            self.problem = f"the last picture, since: {error}"
        self.draw()

    def draw(self) -> None:
        """Put the rows on the screen; the cursor stays with its endpoint."""
        table, chosen = self.query_one(DataTable), self.chosen()
        rows = shown(self.answer, self.sort_by, self.needle)
        names = columns(self.size.width, len(self.answer["pools"]))
        table.clear(columns=names != self.shown)
        if names != self.shown:
            table.add_columns(*names)
            self.shown = names
        for row in rows:
            found = cells(row, self.answer["endpoints"])
            table.add_row(*(found[name] for name in names), key=row["id"])
        ids = [row["id"] for row in rows]
        if chosen in ids:
            table.move_cursor(row=ids.index(chosen))
        self.query_one("#head", Static).update(headline(self.answer, self.sort_by, self.problem))

    def chosen(self) -> str:
        """The endpoint under the cursor; empty when there is none."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def action_sort(self) -> None:
        """The next order."""
        self.sort_by = SORTS[(SORTS.index(self.sort_by) + 1) % len(SORTS)]
        self.draw()

    def action_filter(self) -> None:
        """Type what rows must contain."""
        field = self.query_one(Input)
        field.add_class("on")
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while typing."""
        self.needle = event.value
        self.draw()

    def on_input_submitted(self) -> None:
        """Back to the table."""
        self.query_one(Input).remove_class("on")
        self.query_one(DataTable).focus()

    async def action_explain(self) -> None:
        """Why the chosen endpoint has its weight."""
        answer = await self.told(f"/api/v1/explain?endpoint={quote(self.chosen(), safe='')}")
        if answer is not None:
            await self.push_screen(Explain(answer))

    async def action_drain(self) -> None:
        """Drain the chosen endpoint, when asked twice."""
        chosen = self.chosen()
        if self.sure != chosen:
            self.sure = chosen
            self.notify(f"press d again to drain {chosen}", markup=False)
            return
        self.sure = ""
        if await self.told(f"/api/v1/endpoints/{quote(chosen, safe='')}/drain", {"reason": "from top"}):
            self.notify(f"{chosen}: draining", markup=False)
        await self.look()

    async def action_undrain(self) -> None:
        """Put the chosen endpoint back to work."""
        chosen = self.chosen()
        if await self.told(f"/api/v1/endpoints/{quote(chosen, safe='')}/undrain", {}):
            self.notify(f"{chosen}: back in service", markup=False)
        await self.look()

    async def told(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The API's answer, or its refusal as a notice."""
        try:
            return await self.ask(self.admin, path, body)
        except GpuxdsError as error:
            self.notify(str(error), severity="error", markup=False)
            return None
