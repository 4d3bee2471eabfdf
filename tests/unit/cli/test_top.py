"""The live view, played with as a person would, against an API that the test makes up."""

from __future__ import annotations

from typing import Any

from textual.widgets import DataTable, Static

from gpuxds.cli.top import SORTS, Explain, Top, shown
from gpuxds.errors import ServerAway


def row(name: str, weight: int, running: float | None, health: str = "serving") -> dict[str, Any]:
    signals = dict.fromkeys(("waiting", "kv_usage", "ttft_s", "itl_s", "latency_s", "proxy_active"))
    return {
        "id": name, "pool": "p", "cluster": "p", "health": health,
        "envoy_health": "HEALTHY" if health == "serving" else "DRAINING",
        "in_eds": True, "weight": weight, "gpu": {"model": "H100-80"}, "labels": {"zone": f"z-{name}"},
        "signals": signals | {"running": running}, "load_age_s": 0.5, "reason": "as its capacity",
    }  # fmt: skip


POOL = {
    "pool": "p", "strategy": "gpu_aware", "strategy_source": "policy", "healthy": 2, "endpoints": 3, "alarms": [],
}  # fmt: skip


class Api:
    """Answers, and remembers what it was asked."""

    def __init__(self) -> None:
        self.rows = [row("a", 100, 5.0), row("b", 300, 1.0), row("c", 9, None, "draining")]
        self.asked: list[tuple[str, Any]] = []
        self.down = False

    async def __call__(self, admin: str, path: str, body: Any = None) -> dict[str, Any]:
        self.asked.append((path, body))
        if self.down:
            raise ServerAway("no gpuxds server answers")
        if "explain" in path:
            return {"pools": [POOL], "rules": [], "endpoints": []}
        return {"pools": [POOL], "endpoints": self.rows}


def ids(app: Top) -> list[str]:
    return [str(key.value) for key in app.query_one(DataTable).rows]


def head(app: Top) -> str:
    return str(app.query_one("#head", Static).render())


async def test_rows_can_be_sorted_and_filtered_from_the_keyboard() -> None:
    app = Top("x", Api())
    async with app.run_test(size=(140, 30)) as person:
        assert ids(app) == ["a", "b", "c"]
        await person.press("s")
        assert "sorted by share" in head(app)
        assert ids(app) == ["b", "a", "c"]
        await person.press("slash", "z", "-", "a", "enter")
        assert ids(app) == ["a"]


async def test_a_drain_takes_two_presses_and_says_what_became_of_it() -> None:
    api = Api()
    app = Top("x", api)
    async with app.run_test(size=(140, 30)) as person:
        await person.press("down", "d")
        assert not [path for path, _ in api.asked if "drain" in path]
        await person.press("d")
        assert ("/api/v1/endpoints/b/drain", {"reason": "from top"}) in api.asked
        await person.press("u")
        assert ("/api/v1/endpoints/b/undrain", {}) in api.asked


async def test_a_press_of_d_on_another_row_asks_again() -> None:
    api = Api()
    async with Top("x", api).run_test(size=(140, 30)) as person:
        await person.press("d", "down", "d")
        assert not [path for path, _ in api.asked if path.endswith("drain")]


async def test_an_endpoint_is_explained_on_a_screen_of_its_own() -> None:
    app = Top("x", Api())
    async with app.run_test(size=(140, 30)) as person:
        await person.press("e")
        assert isinstance(app.screen, Explain)
        await person.press("escape")
        assert not isinstance(app.screen, Explain)


async def test_while_the_server_is_away_the_last_picture_stays_and_says_so() -> None:
    api = Api()
    app = Top("x", api)
    async with app.run_test(size=(140, 30)):
        api.down = True
        await app.look()
        assert ids(app) == ["a", "b", "c"]
        assert "the last picture" in head(app)
        api.down, api.rows = False, api.rows[:1]
        await app.look()
        assert ids(app) == ["a"]
        assert "the last picture" not in head(app)


async def test_the_cursor_stays_with_its_endpoint_when_rows_move() -> None:
    api = Api()
    app = Top("x", api)
    async with app.run_test(size=(140, 30)) as person:
        await person.press("down")
        assert app.chosen() == "b"
        await person.press("s")
        assert app.chosen() == "b"


def test_every_order_takes_rows_with_unknown_numbers() -> None:
    answer = {"endpoints": Api().rows}
    for sort in SORTS:
        assert len(shown(answer, sort, "")) == 3


async def test_in_80_columns_a_long_pool_name_leaves_room_for_the_reason() -> None:
    api = Api()
    long = {**POOL, "pool": "a-pool-with-a-rather-long-name-for-llama-3-70b"}
    app = Top("x", api)
    api.rows = [found | {"pool": long["pool"]} for found in api.rows]
    async with app.run_test(size=(80, 24)) as person:
        await person.pause()
        table = app.query_one(DataTable)
        names = [str(column.label) for column in table.columns.values()]
        assert names == ["endpoint", "health", "share", "run", "wait", "kv", "why"]
        before = sum(column.get_render_width(table) for column in list(table.columns.values())[:-1])
        assert before <= 60, "the reason is off the screen"
