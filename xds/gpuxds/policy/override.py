"""Strategies set while the server runs, on top of what the policy file says.

An override is the mapping a policy would have under `strategy`. It stays, over reloads and restarts, until it is
cleared; it is shown wherever the strategy is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from gpuxds.policy.model import Policy, name_only
from gpuxds.policy.strategies import Strategy

ADAPTER: TypeAdapter[Strategy] = TypeAdapter(Annotated[Strategy, BeforeValidator(name_only)])


def parse(value: Any) -> Strategy:
    """A strategy from its name or a mapping. Raises pydantic's ValidationError."""
    return ADAPTER.validate_python(value)


def applied(policy: Policy, overrides: Mapping[str, Mapping[str, Any]]) -> Policy:
    """The policy with the overridden strategies; overrides of pools it does not have wait for them."""
    pools = [
        pool.model_copy(update={"strategy": parse(dict(overrides[pool.name]))}) if pool.name in overrides else pool
        for pool in policy.pools
    ]
    return policy.model_copy(update={"pools": pools})
