"""How tables take the room there is: a terminal's width, or none to mind when piped.

Where a table is too wide for its terminal, ids in its first column are cut in the middle (both ends tell hosts
apart) and prose in its last column is cut at its end or goes on below; numbers are never cut. Piped, nothing is.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TextIO

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPED_COLUMNS = 10_000
GAP = 2
SHORTEST_ID = 12
SHORTEST_PROSE = 20
Cell = str | Text


class Prose(Enum):
    """What becomes of prose that has no room."""

    CUT = "its end is left out"
    WRAP = "it goes on in its column, a line further down"


def console() -> Console:
    """Standard output; as wide as the terminal, and wide enough for whole rows when piped."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPED_COLUMNS)


def wrapped(line: str, stream: TextIO, indent: int = 0) -> str:
    """A line for a terminal with no word broken, its further lines indented; as it is when piped."""
    if not stream.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


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
    prose: Prose | None = None,
) -> Table:
    """A plain table of at most `width` columns; `prose` is for its last column, None when that is a number."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(names, *map(plain, rows), strict=True)]
    id_width, prose_width = shares(widths, width, prose)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for name in names:
        made.add_column(
            name, justify="right" if name in right else "left", no_wrap=prose is not Prose.WRAP or name != names[-1]
        )
    for row in rows:
        cells = list(row)
        cells[0] = shortened(cells[0], id_width)
        if prose is Prose.CUT:
            cells[-1] = ended(cells[-1], prose_width)
        made.add_row(*cells)
    return made


def plain(row: Sequence[Cell]) -> list[str]:
    """The text of a row."""
    return [cell.plain if isinstance(cell, Text) else cell for cell in row]


def shares(widths: Sequence[int], width: int, prose: Prose | None) -> tuple[int, int]:
    """Room for the first and the last column, given what each would like."""
    others = sum(widths[1:-1]) + GAP * (len(widths) - 1)
    wanted, least = widths[-1], widths[-1] if prose is None else min(widths[-1], SHORTEST_PROSE)
    first = max(SHORTEST_ID, width - others - max(least, min(wanted, width - others - widths[0])))
    return first, max(1, width - others - min(first, widths[0]))


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
