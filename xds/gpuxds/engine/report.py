"""What the loop tells the log: reloads and health changes, each with its reason."""

from __future__ import annotations

from pathlib import Path

import structlog

from gpuxds.engine.observe import Metrics
from gpuxds.engine.policy import Reload
from gpuxds.scoring.contract import Health, PoolDecision
from gpuxds.scoring.explain import reason

log = structlog.get_logger("gpuxds")


def report_reload(metrics: Metrics, path: Path, outcome: Reload) -> None:
    """Say what an attempt to load a policy did, in the log and in the metrics."""
    metrics.reload_success.set(1 if outcome.ok else 0)
    if outcome.ok:
        metrics.reload_at.set(outcome.at)
        for problem in outcome.problems:
            log.warning("policy.warning", problem=str(problem))
        log.info("policy.in_force", path=str(path), changed=list(outcome.changed))
        return
    metrics.reload_failures.inc()
    for problem in outcome.problems:
        log.error("policy.refused", problem=str(problem), effect="the last good policy stays in force")


def report_health(before: PoolDecision | None, after: PoolDecision) -> None:
    """Log every endpoint whose health changed, with the reason."""
    old = dict(zip(before.ids, before.health.tolist(), strict=True)) if before else {}
    for row, endpoint_id in enumerate(after.ids):
        health = int(after.health[row])
        if old.get(endpoint_id, health) != health:
            log.info(
                "endpoint.health",
                endpoint=endpoint_id,
                pool=after.pool,
                before=Health(old[endpoint_id]).name.lower(),
                after=Health(health).name.lower(),
                reason=reason(after, row),
            )
