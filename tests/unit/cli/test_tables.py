"""Tables show what they are given, whatever it looks like."""

from __future__ import annotations

from rich.console import Console

from gpuxds.cli.tables import columns, console, told


def test_an_operators_brackets_are_no_markup() -> None:
    table = columns("why")
    table.add_row("ticket [/ops] [bold]12[/bold]")
    made: Console = console()
    with made.capture() as captured:
        made.print(table)
    assert "ticket [/ops] [bold]12[/bold]" in captured.get()


def test_a_rejection_is_one_line_with_its_beginning_and_its_end() -> None:
    message = "Error adding cluster bad:\n" + "name: x\n" * 200 + "ConnectTimeout: value must be greater than 0s"
    line = told(message)
    assert "\n" not in line
    assert line.startswith("Error adding cluster bad")
    assert line.endswith("value must be greater than 0s")
    assert len(line) < 240
    assert told("short") == "short"
