"""What engines say in labels: models, adapters, and how requests ended."""

from __future__ import annotations

from gpuxds.signals.labels import Said, said
from gpuxds.signals.presets import Labels
from gpuxds.signals.presets.vllm import VLLM
from support.pages import vllm_page

assert VLLM.labels is not None
LABELS: Labels = VLLM.labels


def lora(running: str, at: float, engine: str = "0") -> str:
    labels = f'engine="{engine}",max_lora="4",running_lora_adapters="{running}",waiting_lora_adapters="other"'
    return f"vllm:lora_requests_info{{{labels}}} {at}\n"


def ended(reason: str, count: float) -> str:
    return f'vllm:request_success_total{{engine="0",finished_reason="{reason}"}} {count}\n'


def test_the_model_is_read_with_its_escapes_undone() -> None:
    assert said(vllm_page(), LABELS).model == 'meta/"llama" \\ 8B'


def test_requests_that_stopped_or_reached_their_length_succeeded_and_the_rest_failed() -> None:
    page = ended("stop", 10) + ended("length", 5) + ended("abort", 2) + ended("error", 1) + ended("new_reason", 9)
    told = said(page.encode(), LABELS)
    assert (told.succeeded, told.failed) == (15, 3)


def test_an_engine_that_does_not_count_failures_has_none_known_which_is_not_none_failed() -> None:
    told = said((ended("stop", 10) + ended("length", float("nan"))).encode(), LABELS)
    assert (told.succeeded, told.failed) == (10, None)


def test_the_newest_set_of_adapters_holds_for_each_engine() -> None:
    page = lora("old", 100.0) + lora("b, a", 200.0) + lora("c", 50.0, engine="1")
    assert said(page.encode(), LABELS).adapters == ("a", "b", "c")


def test_no_running_adapter_is_an_empty_list_and_no_adapters_at_all_is_unknown() -> None:
    assert said(lora("", 1.0).encode(), LABELS).adapters == ()
    assert said(b"vllm:num_requests_running 1\n", LABELS) == Said()
