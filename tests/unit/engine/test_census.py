"""The count of proxies rises at once and falls slowly, so that reconnects move no weight."""

from gpuxds.engine.census import Census


def test_a_proxy_that_connects_counts_at_once() -> None:
    census = Census(hold_s=15)
    assert census.observe("llama", 1, now=0) == 1
    assert census.observe("llama", 4, now=1) == 4


def test_a_proxy_that_reconnects_is_not_missed() -> None:
    census = Census(hold_s=15)
    census.observe("llama", 2, now=0)
    assert census.observe("llama", 1, now=5) == 2
    assert census.observe("llama", 2, now=6) == 2


def test_a_proxy_that_stays_away_is_forgotten_after_the_hold() -> None:
    census = Census(hold_s=15)
    census.observe("llama", 2, now=0)
    assert census.observe("llama", 1, now=15) == 2
    assert census.observe("llama", 1, now=15.5) == 1


def test_a_restart_starts_from_what_was_connected_before() -> None:
    before = Census()
    before.observe("llama", 3, now=0)
    after = Census(hold_s=15)
    after.restore(before.dump(), now=100)
    assert after.observe("llama", 0, now=101) == 3
    assert after.observe("llama", 1, now=120) == 1
