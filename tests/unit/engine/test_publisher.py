"""What is encoded and what is left alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from gpuxds.engine.publisher import Publisher
from gpuxds.fleet.endpoint import Fleet
from gpuxds.scoring.contract import PoolDecision
from gpuxds.snapshot.model import ENDPOINTS, Snapshot
from support.pools import Pool, policy_for


def prepared() -> tuple[Publisher, Pool]:
    pool = Pool(policy_for({"a": "H100-80", "b": "L4"}))
    pool.hear()
    pool.decide()
    publisher = Publisher()
    publisher.configure(pool.policy, Fleet(pool.facts.endpoints), (), 0.0)
    return publisher, pool


def published(publisher: Publisher, decision: PoolDecision) -> Snapshot:
    publisher.encode([decision])
    return publisher.snapshots(0.0)["all"]


def test_a_decision_that_does_not_push_is_not_encoded_and_wakes_nobody() -> None:
    publisher, pool = prepared()
    first = published(publisher, pool.last)
    quiet = dataclasses.replace(pool.last, push=False, weights=pool.last.weights + 1)
    assert published(publisher, quiet) is first


def test_the_same_weights_pushed_again_are_the_same_snapshot() -> None:
    publisher, pool = prepared()
    first = published(publisher, pool.last)
    assert published(publisher, dataclasses.replace(pool.last, push=True)) is first


def test_new_weights_and_moved_addresses_are_encoded() -> None:
    publisher, pool = prepared()
    first = published(publisher, pool.last)
    heavier = dataclasses.replace(pool.last, push=True, weights=pool.last.weights + 1)
    second = published(publisher, heavier)
    assert second.of(ENDPOINTS).version != first.of(ENDPOINTS).version
    moved = tuple(dataclasses.replace(endpoint, ip="10.9.9.9") for endpoint in heavier.endpoints[:1])
    third = published(
        publisher, dataclasses.replace(heavier, push=False, endpoints=(*moved, *heavier.endpoints[1:]))
    )
    assert third.of(ENDPOINTS).version != second.of(ENDPOINTS).version
    gone = dataclasses.replace(heavier, push=False, in_eds=np.array([True, False]))
    assert published(publisher, gone).of(ENDPOINTS).version != third.of(ENDPOINTS).version
