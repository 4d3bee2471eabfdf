"""What is true of a pool's endpoints as long as the fleet does not change, as columns; built once per change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuxds.fleet.endpoint import Endpoint
from gpuxds.policy.gpus import prior_for
from gpuxds.policy.model import PoolSpec, PriorSpec
from gpuxds.policy.priors import PriorColumns
from gpuxds.signals.model import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """Columns over `endpoints`, in that order."""

    pool: str
    endpoints: tuple[Endpoint, ...]
    ids: tuple[str, ...]
    capacity: Floats
    memory_gb: Floats
    """All GPUs of the endpoint together."""
    memory_per_gpu_gb: Floats
    price_per_hour: Floats
    gpu_count: Floats
    has_address: Bools
    priors: PriorColumns
    homogeneous: bool
    """Every endpoint has the same GPUs and capacity."""

    def take(self, rows: Ints) -> PoolFacts:
        """The columns of some endpoints only."""
        endpoints = tuple(self.endpoints[row] for row in rows.tolist())
        return PoolFacts(
            pool=self.pool,
            endpoints=endpoints,
            ids=tuple(endpoint.id for endpoint in endpoints),
            capacity=self.capacity[rows],
            memory_gb=self.memory_gb[rows],
            memory_per_gpu_gb=self.memory_per_gpu_gb[rows],
            price_per_hour=self.price_per_hour[rows],
            gpu_count=self.gpu_count[rows],
            has_address=self.has_address[rows],
            priors=self.priors.take(rows),
            homogeneous=is_homogeneous(endpoints),
        )


def facts_of(pool: PoolSpec, endpoints: tuple[Endpoint, ...], gpu_models: Mapping[str, PriorSpec]) -> PoolFacts:
    """The columns of a pool."""
    kinds = {(e.gpu.model, e.gpu.memory_gb, e.gpu.count): e for e in endpoints}
    priors = {kind: prior_for(endpoint, gpu_models) for kind, endpoint in kinds.items()}
    return PoolFacts(
        pool=pool.name,
        endpoints=endpoints,
        ids=tuple(e.id for e in endpoints),
        capacity=np.array([e.capacity for e in endpoints], dtype=np.float64),
        memory_gb=np.array([e.gpu.memory_gb * e.gpu.count for e in endpoints], dtype=np.float64),
        memory_per_gpu_gb=np.array([e.gpu.memory_gb for e in endpoints], dtype=np.float64),
        price_per_hour=np.array(
            [np.nan if e.price_per_hour is None else e.price_per_hour for e in endpoints], dtype=np.float64
        ),
        gpu_count=np.array([e.gpu.count for e in endpoints], dtype=np.float64),
        has_address=np.array([e.ip is not None for e in endpoints], dtype=np.bool_),
        priors=PriorColumns.of([priors[(e.gpu.model, e.gpu.memory_gb, e.gpu.count)] for e in endpoints]),
        homogeneous=is_homogeneous(endpoints),
    )


def is_homogeneous(endpoints: tuple[Endpoint, ...]) -> bool:
    """Whether all have the same GPUs and capacity."""
    return len({(e.gpu.model, e.gpu.memory_gb, e.gpu.count, e.capacity) for e in endpoints}) <= 1
