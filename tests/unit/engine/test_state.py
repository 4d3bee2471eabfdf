"""State survives a kill at any moment, and a state file that cannot be used is no obstacle."""

from pathlib import Path

import pytest

from gpuxds.engine.state import SavedState, encode, load, save
from gpuxds.errors import StateError

STATE = SavedState(saved_at=12.5, pools={"llama": {"ids": ["a"]}}, proxies={"llama": 2}, policy_text="version: 1")


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    save(path, encode(STATE))
    assert load(path) == STATE


def test_without_a_file_there_is_no_state(tmp_path: Path) -> None:
    assert load(tmp_path / "state.json") is None


def test_a_save_that_was_cut_short_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save(path, encode(STATE))
    path.with_suffix(".new").write_bytes(encode(STATE)[:10])
    assert load(path) == STATE


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\x00\x01"])
def test_a_file_that_is_no_state_is_set_aside_and_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match="set aside as state.unreadable"):
        load(path)
    assert not path.exists()
    assert (tmp_path / "state.unreadable").read_bytes() == content


def test_the_state_of_another_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format": 99}')
    with pytest.raises(StateError, match="format 99, this gpuxds reads format 1"):
        load(path)
    assert path.exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        save(tmp_path / "file" / "state.json", b"{}")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00garbage",
        b'{"format":1,"saved_at":"x","pools":{},"drains":[],"proxies":{},"policy_text":"","overrides":{},"registry":{},"answers":{}}',
        b'{"format":1,"saved_at":1,"pools":{},"drains":[],"proxies":[1],"policy_text":"","overrides":{},"registry":{},"answers":{}}',
    ],
)  # fmt: skip
def test_no_content_of_the_state_file_is_an_obstacle_to_starting(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match="set aside"):
        load(path)
    assert load(path) is None
