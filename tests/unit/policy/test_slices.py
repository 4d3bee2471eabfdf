"""Which endpoints are in which cluster."""

from __future__ import annotations

from gpuxds.fleet.reservation import Reservation
from gpuxds.policy.build import endpoints
from gpuxds.policy.loader import load_text
from gpuxds.policy.model import Policy
from gpuxds.policy.slices import pool_of, slices_of

TEXT = """
version: 1
pools:
- name: llm
  {extra}
  endpoints:
  - {{id: h100, address: "10.0.0.1:80", gpu: {{model: H100-80}}}}
  - {{id: l4, address: "10.0.0.2:80", gpu: {{model: L4}}}}
  - {{id: l4x4, address: "10.0.0.3:80", gpu: {{model: L4, count: 4}}}}
"""


def policy(extra: str = "") -> Policy:
    return load_text(TEXT.format(extra=extra), "p.yaml").policy


def reservation(*ids: str, pool: str = "llm") -> Reservation:
    return Reservation("secret-" + "-".join(ids), pool, ids, 0.0, 100.0)


def members(spec: Policy, *reservations: Reservation) -> dict[str, tuple[str, ...]]:
    return {part.cluster: part.ids for part in slices_of(spec.pools[0], endpoints(spec), reservations)}


def test_a_plain_pool_has_no_slices() -> None:
    assert members(policy()) == {}


def test_large_requests_go_to_whoever_has_the_memory_all_gpus_together() -> None:
    assert members(policy("large_requests: {min_memory_gb: 80}")) == {"llm/large": ("h100", "l4x4")}


def test_a_reserved_endpoint_is_in_its_reservation_and_nowhere_else() -> None:
    held = reservation("h100")
    found = members(policy("large_requests: {}"), held)
    assert found == {"llm/large": ("l4x4",), f"llm/{held.name}": ("h100",)}


def test_a_reservation_of_another_pool_is_not_ours() -> None:
    assert members(policy(), reservation("h100", pool="other")) == {}


def test_a_reservation_whose_endpoints_left_keeps_its_empty_cluster() -> None:
    held = reservation("gone")
    assert members(policy(), held) == {f"llm/{held.name}": ()}


def test_a_cluster_names_its_pool_and_never_the_reservations_id() -> None:
    held = reservation("h100")
    (cluster,) = members(policy(), held)
    assert pool_of(cluster) == "llm" == pool_of("llm")
    assert held.id not in cluster
    assert held.id not in repr(held)
