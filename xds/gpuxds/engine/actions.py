"""What an operator may ask of a running engine: drains, strategies, and endpoints that come and go by request.

Each action checks, changes what the engine knows, decides at once, and saves; what it refuses it refuses in words
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuxds.errors import UnknownPool, Unusable
from gpuxds.policy.checks import findings
from gpuxds.policy.model import EndpointSpec
from gpuxds.policy.override import applied
from gpuxds.policy.slices import reserved_of
from gpuxds.policy.strategies import Strategy
from gpuxds.scoring.contract import Drain, Health

if TYPE_CHECKING:
    from gpuxds.engine.loop import Engine


def set_strategy(engine: Engine, pools: Sequence[str], strategy: Strategy | None) -> None:
    """Override the strategy of these pools (none: all), or clear it. Raises NotReady, UnknownPool or Unusable."""
    engine.require_ready()
    known = [pool.name for pool in engine.policy.pools]
    for name in pools:
        if name not in known:
            raise UnknownPool(f"no pool {name!r}; pools: {', '.join(known)}")
    wanted = {name: found for name, found in engine.overrides.items() if name not in (pools or known)}
    if strategy is not None:
        wanted |= dict.fromkeys(pools or known, strategy.model_dump(mode="python"))
    for finding in findings(applied(engine.holder.current.policy, wanted)):
        if finding.severity == "error" and "strategy" in finding.path:
            raise Unusable(f"strategy: {finding.message}")
    engine.overrides = wanted
    engine.reporter.strategy(list(pools or known), strategy.name if strategy else None, engine.now())
    engine.follow(applied(engine.holder.current.policy, engine.overrides), engine.fleet, force=True)
    engine.decide()
    engine.save()


def register(engine: Engine, pool: str, spec: EndpointSpec) -> None:
    """Take in an endpoint. Raises NotReady, UnknownPool, Unusable or Conflict."""
    engine.require_ready()
    engine.registry.register(engine.policy, engine.fleet, pool, spec)
    regroup(engine)


def change(engine: Engine, endpoint_id: str, pool: str, spec: EndpointSpec) -> None:
    """Describe a registered endpoint anew. Raises UnknownEndpoint, Unusable or Conflict."""
    engine.require_ready()
    engine.registry.change(engine.policy, engine.fleet, endpoint_id, pool, spec)
    regroup(engine)


def remove(engine: Engine, endpoint_id: str, *, force: bool) -> None:
    """Drain a registered endpoint and forget it then; with `force` at once.

    Raises like `drain`, and Conflict when it is not registered.
    """
    engine.require_ready()
    engine.registry.require(engine.fleet, endpoint_id)
    if force or endpoint_id not in engine.fleet.by_id:
        engine.drains.undo(endpoint_id)
        engine.registry.forget([endpoint_id])
        regroup(engine)
        return
    drain(engine, endpoint_id, deadline_s=None, reason="to be removed", owner="operator", force=False)
    engine.registry.leaving.add(endpoint_id)
    engine.save()


def let_go(engine: Engine) -> None:
    """Forget registered endpoints that were to leave and are drained."""
    if not engine.registry.leaving:
        return
    health = {i: h for d in engine.decisions.values() for i, h in zip(d.ids, d.health.tolist(), strict=True)}
    done = [endpoint_id for endpoint_id in engine.registry.leaving if health.get(endpoint_id) == Health.DRAINED]
    if done:
        for endpoint_id in done:
            if engine.registry.owns(engine.fleet, endpoint_id):
                engine.drains.undo(endpoint_id)
        engine.registry.forget(done)
        regroup(engine)


def regroup(engine: Engine) -> None:
    """The sources changed by what somebody asked for: follow at once, and remember."""
    engine.follow(engine.policy, engine.merged())
    engine.asked.set()
    engine.decide()
    engine.save()


def drain(
    engine: Engine, endpoint_id: str, *, deadline_s: float | None, reason: str, owner: str, force: bool
) -> Drain:
    """Take an endpoint out of service. Raises UnknownEndpoint or DrainRefused."""
    decision = engine.decision_of(endpoint_id)
    pool = next(pool for pool in engine.policy.pools if pool.name == decision.pool)
    held = engine.reservations.holders(engine.fleet).get(endpoint_id)
    if held is not None:
        decision = engine.parts.get(reserved_of(held), decision)
    now = engine.now()
    limit_s = pool.drain.deadline if deadline_s is None else deadline_s
    started = Drain(endpoint_id, now, now + limit_s, reason, owner)
    engine.drains.start(started, decision, force=force)
    engine.reporter.drain(started)
    engine.decide()
    engine.save()
    return started


def undrain(engine: Engine, endpoint_id: str) -> bool:
    """Put an endpoint back to work; False when it was not draining. Raises UnknownEndpoint."""
    if endpoint_id not in engine.drains.by_id:
        engine.decision_of(endpoint_id)
    engine.registry.leaving.discard(endpoint_id)
    undone = engine.drains.undo(endpoint_id)
    if undone:
        engine.reporter.undrain(endpoint_id, engine.now())
        engine.decide()
        engine.save()
    return undone
