"""How tables take the room there is: a terminal's width, or none to mind when piped.

Every row is one line. Where a table is too wide for its terminal the ids in its first column are cut in the middle
(both ends tell hosts apart) and prose in its last column at its end; numbers are never cut. Piped, nothing is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPED_COLUMNS = 10_000
GAP = 2
SHORTEST_ID = 12
SHORTEST_PROSE = 16
Cell = str | Text


def console() -> Console:
    """Standard output; as wide as the terminal, and wide enough for whole rows when piped."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPED_COLUMNS)


def show(answer: dict[str, Any], as_json: bool, picture: Callable[[int], RenderableType]) -> None:
    """Print an answer: as JSON when asked, else as a picture so many columns wide."""
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    out = console()
    out.print(picture(out.width))


def tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    """Say what was done: in words, or as the API said it when JSON is asked for."""
    typer.echo(json.dumps(answer, indent=2) if as_json else text)


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    width: int,
    *,
    right: Sequence[str] = (),
    cut: bool = False,
) -> Table:
    """A plain table of at most `width` columns. With `cut` its last column is prose that may lose its end."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(names, *map(plain, rows), strict=True)]
    id_width, prose_width = shares(widths, width, cut=cut)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for name in names:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=cut or name != names[-1])
    for row in rows:
        cells = list(row)
        cells[0] = shortened(cells[0], id_width)
        if cut:
            cells[-1] = ended(cells[-1], prose_width)
        made.add_row(*cells)
    return made


def plain(row: Sequence[Cell]) -> list[str]:
    """The text of a row."""
    return [cell.plain if isinstance(cell, Text) else cell for cell in row]


def shares(widths: Sequence[int], width: int, *, cut: bool) -> tuple[int, int]:
    """Room for the first and the last column, given what each would like."""
    others = widths[1:-1] if cut else widths[1:]
    room = width - sum(others) - GAP * (len(widths) - 1)
    if not cut:
        return max(SHORTEST_ID, room), widths[-1]
    prose = min(widths[-1], max(SHORTEST_PROSE, room - widths[0]))
    first = max(SHORTEST_ID, room - prose)
    return first, max(1, room - min(first, widths[0]))


def shortened(cell: Cell, most: int) -> Cell:
    """A cell in at most so many columns, cut in the middle."""
    text = cell.plain if isinstance(cell, Text) else cell
    if cell_len(text) <= most:
        return cell
    tail = (most - 1) // 2
    return f"{set_cell_size(text, most - 1 - tail)}…{set_cell_size(text[::-1], tail)[::-1]}"


def ended(cell: Cell, most: int) -> Cell:
    """A cell in at most so many columns, cut at its end."""
    text = cell.plain if isinstance(cell, Text) else cell
    return cell if cell_len(text) <= most else f"{set_cell_size(text, most - 1)}…"
