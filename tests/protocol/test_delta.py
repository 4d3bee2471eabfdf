"""Incremental, as conversations."""

from __future__ import annotations

from typing import Any

import pytest

from gpuxds.discovery.events import Acked, Nacked
from gpuxds.discovery.session import MAX_NAME_CHARS, MAX_NAMES, MAX_TYPES
from gpuxds.errors import ProtocolError
from gpuxds.snapshot.model import CLUSTER, EMPTY, ENDPOINTS, LISTENER, ROUTES, Snapshot
from protocol.conversation import Delta, contents, names, snapshot, types

TWO = {"a": "1", "b": "1"}


def test_an_unknown_type_has_none_of_the_names_and_harms_nothing() -> None:
    """C4"""
    client = Delta()
    (answer,) = client.say("type.googleapis.com/nobody.knows.This", ["x"])
    assert list(answer.removed_resources) == ["x"]
    assert names(client.say(CLUSTER)[0]) == ["a"]


def test_the_first_response_has_names_versions_and_a_nonce() -> None:
    """C30"""
    client = Delta(snapshot=snapshot(TWO))
    (everything,) = client.say(CLUSTER)
    assert [(found.name, found.version) for found in everything.resources] == [("a", "1"), ("b", "1")]
    (one,) = client.say(ENDPOINTS, ["b"])
    assert names(one) == ["b"]
    assert everything.nonce
    assert one.nonce != everything.nonce
    assert all(not found.HasField("ttl") for found in one.resources if "ttl" in found.DESCRIPTOR.fields_by_name)


def test_only_what_changed_is_sent_and_nothing_that_stayed_is_listed_as_removed() -> None:
    """C31"""
    client = Delta(snapshot=snapshot(TWO))
    (first,) = client.say(ENDPOINTS, ["a", "b"])
    client.ack(first)
    (change,) = client.publish(snapshot(TWO, {"a": "1", "b": "2"}))
    assert contents(change) == ["b@2"]
    assert list(change.removed_resources) == []


def test_what_was_removed_is_listed() -> None:
    """C32"""
    client = Delta(snapshot=snapshot(TWO))
    (first,) = client.say(CLUSTER)
    client.ack(first)
    (change,) = client.publish(snapshot({"a": "1"}))
    assert names(change) == []
    assert list(change.removed_resources) == ["b"]
    assert client.ack(change) == []


def test_a_wildcard_that_matches_nothing_is_answered() -> None:
    """C32"""
    client = Delta(snapshot=Snapshot({CLUSTER: EMPTY}))
    (answer,) = client.say(CLUSTER)
    assert names(answer) == []
    assert list(answer.removed_resources) == []
    assert client.ack(answer) == []


def test_a_name_that_does_not_exist_is_listed_as_removed_and_sent_when_it_appears() -> None:
    """C33"""
    client = Delta()
    (answer,) = client.say(ENDPOINTS, ["a", "later"])
    assert names(answer) == ["a"]
    assert list(answer.removed_resources) == ["later"]
    client.ack(answer)
    assert names(client.publish(snapshot({"a": "1", "later": "1"}))[0]) == ["later"]


def test_a_name_asked_for_again_is_sent_again() -> None:
    """C34"""
    client = Delta()
    (first,) = client.say(ENDPOINTS, ["a", "none"])
    client.ack(first)
    (again,) = client.say(ENDPOINTS, ["a", "none"])
    assert contents(again) == ["a@1"]
    assert list(again.removed_resources) == ["none"]


def test_unsubscribing_is_silent_and_phantoms_are_ignored() -> None:
    """C35"""
    client = Delta(snapshot=snapshot(TWO))
    (first,) = client.say(ENDPOINTS, ["a", "b"])
    client.ack(first)
    assert client.say(ENDPOINTS, unsubscribe=["a", "phantom"]) == []
    assert client.publish(snapshot(TWO, {"a": "2", "b": "1"})) == []


def test_unsubscribing_a_name_that_the_star_covers_sends_it_again() -> None:
    """C35"""
    client = Delta(snapshot=snapshot(listeners={"in": "1", "svc": "1"}, on_request_only=["svc"]))
    (first,) = client.say(LISTENER, ["*", "in", "svc"])
    assert names(first) == ["in", "svc"]
    client.ack(first)
    (again,) = client.say(LISTENER, unsubscribe=["in", "svc"])
    assert names(again) == ["in"]
    assert list(again.removed_resources) == ["svc"]


def test_a_legacy_wildcard_survives_names_and_ends_only_with_the_star() -> None:
    """C36"""
    client = Delta(snapshot=snapshot(TWO))
    (everything,) = client.say(CLUSTER)
    client.ack(everything)
    (named,) = client.say(CLUSTER, ["a"])
    client.ack(named)
    (change,) = client.publish(snapshot({"a": "1", "b": "2"}))
    assert names(change) == ["b"]
    client.ack(change)
    assert client.say(CLUSTER, unsubscribe=["*"]) == []
    assert client.publish(snapshot({"a": "1", "b": "3"})) == []
    assert names(client.publish(snapshot({"a": "2", "b": "3"}))[0]) == ["a"]
    client.say(CLUSTER, unsubscribe=["a"])
    assert client.publish(snapshot({"a": "3", "b": "4"})) == []


def test_versions_the_client_has_are_honoured_at_first_only() -> None:
    """C37, C7"""
    client = Delta(snapshot=snapshot({"same": "1", "newer": "2"}))
    (answer,) = client.say(CLUSTER, initial_resource_versions={"same": "1", "newer": "1", "gone": "1"})
    assert contents(answer) == ["newer@2"]
    assert list(answer.removed_resources) == ["gone"]
    client.ack(answer)
    assert client.say(CLUSTER, initial_resource_versions={"same": "0"}) == []


def test_a_client_that_comes_back_with_everything_is_sent_nothing() -> None:
    """C37, C26, C7"""
    client = Delta()
    heard = client.say(CLUSTER, initial_resource_versions={"a": "1"})
    heard += client.say(ENDPOINTS, ["a"], initial_resource_versions={"a": "1"})
    heard += client.say(LISTENER, initial_resource_versions={"in": "1"})
    heard += client.say(ROUTES, ["r"], initial_resource_versions={"r": "1"})
    assert heard == []
    assert all(status.in_sync for status in client.session.status(client.snapshot))


@pytest.mark.parametrize("endpoints_first", [False, True])
def test_a_cluster_that_changed_during_an_outage_has_its_endpoints_sent_whatever_the_client_has(
    endpoints_first: bool,
) -> None:
    """C38, C25"""
    client = Delta(snapshot=snapshot({"a": "2"}))

    def clusters() -> list[Any]:
        return client.say(CLUSTER, initial_resource_versions={"a": "1"})

    def endpoints() -> list[Any]:
        return client.say(ENDPOINTS, ["a"], initial_resource_versions={"a": "1"})

    heard = [*endpoints(), *clusters()] if endpoints_first else [*clusters(), *endpoints()]
    assert types(heard) == [CLUSTER, ENDPOINTS]


def test_a_changed_cluster_has_its_endpoints_sent_without_being_asked() -> None:
    """C25: an incremental Envoy says nothing and waits."""
    client = Delta(snapshot=snapshot(TWO))
    for response in [*client.say(CLUSTER), *client.say(ENDPOINTS, ["a", "b"])]:
        client.ack(response)
    heard = client.publish(snapshot({"a": "2", "b": "1"}))
    assert [(r.type_url, contents(r)) for r in heard] == [(CLUSTER, ["a@2"]), (ENDPOINTS, ["a@1"])]


def test_names_in_a_request_with_a_stale_nonce_count() -> None:
    """C39"""
    client = Delta(snapshot=snapshot(TWO))
    client.say(ENDPOINTS, ["a"])
    assert names(client.say(ENDPOINTS, ["b"], response_nonce="from another life")[0]) == ["b"]


def test_what_was_rejected_is_not_sent_again_and_the_rest_flows() -> None:
    """C40, C12"""
    client = Delta(snapshot=snapshot(TWO))
    (first,) = client.say(ENDPOINTS, ["a", "b"])
    assert client.nack(first, "weight 0") == []
    assert client.events == [Nacked(ENDPOINTS, first.system_version_info, ("a", "b"), "weight 0")]
    (other,) = client.publish(snapshot(TWO, {"a": "1", "b": "2"}))
    assert contents(other) == ["b@2"]
    client.ack(other)
    assert contents(client.publish(snapshot(TWO, {"a": "2", "b": "2"}))[0]) == ["a@2"]


def test_an_ack_is_silent_and_a_new_name_is_answered_although_a_response_is_unacknowledged() -> None:
    """C41"""
    client = Delta(snapshot=snapshot(TWO))
    (first,) = client.say(ENDPOINTS, ["a"])
    (second,) = client.say(ENDPOINTS, ["b"])
    assert names(second) == ["b"]
    assert client.ack(first) == []
    assert client.ack(second) == []
    assert [type(event) for event in client.events] == [Acked, Acked]


def test_a_change_between_a_subscription_and_its_ack_is_not_lost() -> None:
    """C41, C60"""
    client = Delta()
    (first,) = client.say(ENDPOINTS, ["a"])
    assert client.publish(snapshot(endpoints={"a": "2"})) == []
    assert client.publish(snapshot(endpoints={"a": "3"})) == []
    assert contents(client.ack(first)[0]) == ["a@3"]


def test_subscribing_comes_before_unsubscribing_in_one_request() -> None:
    """C43"""
    client = Delta(snapshot=snapshot(TWO))
    (everything,) = client.say(CLUSTER)
    client.ack(everything)
    heard = client.say(CLUSTER, ["a"], ["*"])
    assert [name for response in heard for name in names(response)] == ["a"]
    for response in heard:
        client.ack(response)
    assert client.publish(snapshot({"a": "1", "b": "2"})) == []
    assert client.say(CLUSTER, ["b"], ["b"]) == []


def test_one_change_of_everything_is_written_in_the_order_of_need() -> None:
    """C50"""
    client = Delta()
    for type_url, wanted in ((ROUTES, ["r"]), (LISTENER, []), (ENDPOINTS, ["a"]), (CLUSTER, [])):
        for response in client.say(type_url, wanted):
            client.ack(response)
    for response in client.hear():
        client.ack(response)
    heard = client.publish(snapshot({"a": "2"}, {"a": "2"}, {"in": "2"}, {"r": "2"}))
    assert types(heard) == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]


def test_a_new_clusters_endpoints_never_come_before_it() -> None:
    """C50"""
    client = Delta()
    waiting = [*client.say(ENDPOINTS, ["a", "new"]), *client.say(CLUSTER)]
    while waiting:
        waiting += client.ack(waiting.pop())
    heard = client.publish(snapshot({"a": "1", "new": "1"}))
    assert types(heard) == [CLUSTER, ENDPOINTS]


def test_what_would_cost_memory_without_bound_is_refused() -> None:
    """C64: names, their length and types have limits."""
    with pytest.raises(ProtocolError) as many:
        Delta().say(ENDPOINTS, [str(number) for number in range(MAX_NAMES + 1)])
    assert many.value.status == "RESOURCE_EXHAUSTED"
    with pytest.raises(ProtocolError):
        Delta().say(ENDPOINTS, ["x" * (MAX_NAME_CHARS + 1)])
    client = Delta()
    for number in range(MAX_TYPES):
        client.say(f"type.googleapis.com/t{number}", ["x"])
    with pytest.raises(ProtocolError, match="types"):
        client.say("type.googleapis.com/one-more", ["x"])
