"""The last good policy stays, whatever the file says, also over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuxds.engine.policy import PolicyHolder
from gpuxds.errors import PolicyError

GOOD = "version: 1\npools: [{name: p, endpoints: [{id: x, address: '10.0.0.1:80', gpu: {model: L4}}]}]\n"
BAD = GOOD.replace("L4", "L4, memory_gb: 80")


def holder(path: Path, text: str) -> PolicyHolder:
    path.write_text(text)
    return PolicyHolder(path)


def test_a_good_edit_is_taken_over_and_says_what_changed(tmp_path: Path) -> None:
    held = holder(tmp_path / "p.yaml", GOOD)
    held.start("", 1.0)
    (tmp_path / "p.yaml").write_text(GOOD.replace("10.0.0.1", "10.0.0.2"))
    outcome = held.reload(2.0)
    assert outcome is not None
    assert outcome.ok
    assert "10.0.0.2" in " ".join(outcome.changed)
    assert held.current.policy.pools[0].endpoints[0].address == "10.0.0.2:80"


@pytest.mark.parametrize("text", [BAD, "", "version: [", None])
def test_a_bad_edit_or_a_lost_file_changes_nothing_and_is_told_once(tmp_path: Path, text: str | None) -> None:
    held = holder(tmp_path / "p.yaml", GOOD)
    held.start("", 1.0)
    if text is None:
        (tmp_path / "p.yaml").unlink()
    else:
        (tmp_path / "p.yaml").write_text(text)
    outcome = held.reload(2.0)
    assert outcome is not None
    assert not outcome.ok
    assert outcome.problems
    assert held.failures == 1
    assert held.reload(3.0) is None, "the same content is not tried again"
    assert held.current.policy.pools[0].endpoints[0].gpu.model == "L4"


def test_a_restart_on_top_of_a_broken_file_serves_the_last_good_policy(tmp_path: Path) -> None:
    held = holder(tmp_path / "p.yaml", BAD)
    outcome = held.start(GOOD, 1.0)
    assert not outcome.ok
    assert held.current.policy.pools[0].endpoints[0].gpu.memory_gb is None


def test_a_first_start_on_a_broken_file_is_refused_with_every_problem(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="80 contradicts model 'L4'"):
        holder(tmp_path / "p.yaml", BAD).start("", 1.0)


def test_an_unchanged_file_is_not_loaded_again(tmp_path: Path) -> None:
    held = holder(tmp_path / "p.yaml", GOOD)
    held.start("", 1.0)
    assert held.reload(2.0) is None


def test_a_policy_that_trips_a_defect_of_ours_is_refused_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holder(tmp_path / "p.yaml", GOOD)
    held.start("", 1.0)

    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("gpuxds.engine.policy.config", broken)
    (tmp_path / "p.yaml").write_text(GOOD + "\n")
    outcome = held.reload(2.0)
    assert outcome is not None
    assert not outcome.ok
    assert "RuntimeError: two lines" in str(outcome.problems[0])
    assert held.current.policy.pools[0].name == "p"
