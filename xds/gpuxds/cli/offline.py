"""Explains a policy with recorded signals: the same decision, without a server or a network.

Useful before a policy is deployed (what would these weights be?) and after an incident (what did the server
see?). One proxy and no history are assumed, so corrections that were learnt over time are at their start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpuxds.admin.views import explained, plain
from gpuxds.engine.sources import Sources
from gpuxds.errors import SignalError
from gpuxds.fleet.endpoint import Fleet
from gpuxds.policy.loader import load
from gpuxds.scoring.contract import PoolDecision, PoolMemory
from gpuxds.scoring.facts import facts_of
from gpuxds.scoring.pipeline import decide
from gpuxds.scoring.tokens import token_means
from gpuxds.signals import recording


def explain_offline(policy_path: Path, signals_path: Path) -> dict[str, Any]:
    """What the API would answer. Raises PolicyError or SignalError."""
    loaded = load(policy_path)
    try:
        document = json.loads(signals_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SignalError(f"{signals_path}: not a recorded signals file: {error}") from error
    view = recording.load(document, loaded.policy.signals)
    fleet = Sources().build(loaded, Fleet())
    policy = loaded.policy
    decisions: list[PoolDecision] = []
    for pool in policy.pools:
        facts = facts_of(pool, fleet.pool(pool.name), policy.gpu_models)
        decisions.append(decide(policy, pool, facts, view, PoolMemory(), {}, 1, view.now, token_means(view)))
    answer: dict[str, Any] = plain(explained(policy, decisions, None, {}))
    return answer
