"""What the engine reads from its state file when it starts, and writes to it about once a second.

`state.py` knows the file; this knows which parts of the engine it is about. State that does not have the shape it
should is left aside as a whole, since half a memory is worse than none: fresh signals come within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpuxds.engine import state as saved
from gpuxds.engine.drains import Drains
from gpuxds.engine.registry import Registry
from gpuxds.engine.reservations import Reservations
from gpuxds.errors import StateError
from gpuxds.policy.override import applied
from gpuxds.scoring.memory import from_json, not_after, to_json

if TYPE_CHECKING:
    from gpuxds.engine.loop import Engine

log = structlog.get_logger("gpuxds")


def restore(engine: Engine, state: saved.SavedState) -> None:
    """Continue from saved state; without it when it does not have the shape it should."""
    try:
        now = engine.now()
        memories = {name: not_after(from_json(document), now) for name, document in state.pools.items()}
        drains = Drains.restore(state.drains)
        registry = Registry.restore(state.registry)
        reservations = Reservations.restore(state.reservations)
        applied(engine.holder.current.policy, state.overrides)
    except (StateError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        log.error("state.unusable", error=str(error), effect="starting from fresh signals")
        return
    engine.memories, engine.drains, engine.overrides = memories, drains, dict(state.overrides)
    engine.sources.learn({host: tuple(found) for host, found in state.answers.items()})
    engine.registry, engine.reservations = registry, reservations
    engine.census.restore(state.proxies, engine.now())


def read(engine: Engine) -> saved.SavedState:
    """The saved state; empty when there is none or it is unusable, which is logged."""
    try:
        state = saved.load(engine.settings.state_path)
    except StateError as error:
        log.error("state.unusable", error=str(error))
        state = None
    if state is not None:
        log.info("state.restored", age_s=round(engine.now() - state.saved_at, 1), drains=len(state.drains))
    return state or saved.SavedState()


def encoding(engine: Engine) -> Callable[[], bytes]:
    """Makes the file's content as of now when it is called; then on any thread, since that takes its time: what
    changes in place is copied here, and a decision's memory never does."""
    memories = engine.memories
    registry = Registry(dict(engine.registry.specs), set(engine.registry.leaving))
    rest = partial(
        saved.SavedState,
        saved_at=engine.now(),
        drains=engine.drains.dump(),
        proxies=engine.census.dump(),
        policy_text=engine.holder.text,
        overrides=engine.overrides,
        answers={host: list(found) for host, found in engine.sources.answers.items()},
        reservations=engine.reservations.dump(),
    )
    return lambda: saved.encode(
        rest(pools={name: to_json(memory) for name, memory in memories.items()}, registry=registry.dump())
    )


def write(engine: Engine, encode: Callable[[], bytes]) -> None:
    """Write the state file; a full disk is reported, not fatal."""
    try:
        saved.save(engine.settings.state_path, encode())
    except StateError as error:
        engine.metrics.state_failures.inc()
        log.error("state.not_saved", error=str(error))
