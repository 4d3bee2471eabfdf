"""Which weight function and which Envoy policy each strategy means; the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from gpuxds.policy import strategies as named
from gpuxds.policy.strategies import Parameters
from gpuxds.scoring.contract import WeightFunction
from gpuxds.scoring.strategies import (
    agent_score,
    equal,
    equal_weighted,
    gpu_aware,
    least_load,
    least_response_time,
    peak_ewma,
    weighted_round_robin,
)

Build = Callable[[Any], WeightFunction]

BUILDERS: Mapping[type[Parameters], Build] = MappingProxyType(
    {
        named.GpuAware: gpu_aware.build,
        named.FullScan: equal.build,
        named.LeastLoad: least_load.build,
        named.RoundRobin: equal.build,
        named.EqualWeighted: equal_weighted.build,
        named.WeightedRoundRobin: weighted_round_robin.build,
        named.LeastConnections: equal.build,
        named.LeastResponseTime: least_response_time.build,
        named.PeakEwma: peak_ewma.build,
        named.AgentScore: agent_score.build,
        named.ConsistentHash: equal.build,
    }
)


CHOICES = 5
"""Nearly as good as all, and leaves out any one host of three in one pick of eight, of two in one of 32."""


def weight_function(strategy: Parameters) -> WeightFunction:
    """The weight function of a strategy with its parameters."""
    return BUILDERS[type(strategy)](strategy)


@dataclass(frozen=True, slots=True)
class LbChoice:
    """The load-balancing policy Envoy runs for a strategy."""

    kind: Literal["least_request", "round_robin", "ring_hash", "maglev"]
    choices: int = 0
    """least_request: hosts picked at random, the least busy of which is taken when weights are equal; 0: all are
    looked at."""
    bias: float = 1.0
    """least_request: active_request_bias."""
    hash_balance_factor: int = 0
    """Hashing: most load of a host in percent of the mean."""


def lb_of(strategy: Parameters) -> LbChoice:
    """Envoy's side of a strategy.

    Weights that already follow load go with least request, so that the proxy corrects between pushes and goes on
    doing so when the control plane is dead. Weights fixed by the fleet go with round robin. Among equal weights a
    few random hosts are compared and not all: a server that fails at once is always the least busy of all, and
    every retry of a request would go to it again (decision 0009).
    """
    match strategy:
        case named.ConsistentHash():
            return LbChoice(strategy.algorithm, hash_balance_factor=strategy.hash_balance_factor)
        case named.GpuAware():
            return LbChoice("least_request", CHOICES, bias=strategy.least_request_bias)
        case named.FullScan():
            return LbChoice("least_request")
        case named.LeastConnections():
            return LbChoice("least_request", 2)
        case named.RoundRobin() | named.WeightedRoundRobin() | named.EqualWeighted():
            return LbChoice("round_robin")
        case _:
            return LbChoice("least_request", CHOICES)
