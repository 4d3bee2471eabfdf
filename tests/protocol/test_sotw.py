"""State of the world, as conversations."""

from __future__ import annotations

import pytest

from gpuxds.discovery.events import Acked, Nacked
from gpuxds.discovery.session import MAX_NACK_CHARS, SotwSession
from gpuxds.errors import ProtocolError
from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from gpuxds.wire import xds_pb2 as pb
from protocol.conversation import Sotw, contents, names, snapshot, types


def test_the_first_message_must_say_who_it_is_and_later_ones_need_not() -> None:
    """C1"""
    client = Sotw()
    with pytest.raises(ProtocolError, match=r"node\.id") as refused:
        SotwSession().receive(pb.DiscoveryRequest(type_url=CLUSTER))
    assert refused.value.status == "INVALID_ARGUMENT"
    client.say(CLUSTER)
    client.say(LISTENER)
    client.session.receive(pb.DiscoveryRequest(type_url=ROUTES, node=pb.Node(id="somebody else")))
    assert client.session.node is not None
    assert client.session.node.id == "n1"


def test_two_streams_of_one_node_do_not_know_each_other() -> None:
    """C2"""
    one, two = Sotw(), Sotw()
    (first,) = one.say(CLUSTER)
    assert len(two.say(CLUSTER)) == 1
    one.ack(first)
    assert two.session.subscriptions[CLUSTER].awaiting


def test_a_type_is_required_on_the_aggregated_stream_and_implied_on_others() -> None:
    """C3"""
    with pytest.raises(ProtocolError, match="type_url"):
        Sotw().say("")
    single = Sotw(SotwSession(only_type=CLUSTER))
    assert types(single.say("")) == [CLUSTER]
    with pytest.raises(ProtocolError, match="serves"):
        single.say(LISTENER)


def test_an_unknown_type_is_met_with_silence_and_others_go_on() -> None:
    """C4"""
    client = Sotw()
    assert client.say("type.googleapis.com/nobody.knows.This", ["x"]) == []
    assert names(client.say(CLUSTER)[0]) == ["a"]


def test_before_the_first_snapshot_nothing_is_sent() -> None:
    """C6"""
    client = Sotw(snapshot=None)
    assert client.say(CLUSTER) == []
    assert client.say(LISTENER) == []
    assert types(client.publish(snapshot())) == [CLUSTER, LISTENER]


def test_every_response_has_a_nonce_of_its_own_a_type_and_a_version() -> None:
    """C10"""
    client = Sotw()
    assert client.hear() == []
    heard = [*client.say(CLUSTER), *client.say(LISTENER), *client.say(ENDPOINTS, ["a"]), *client.say(ROUTES, ["r"])]
    assert len({response.nonce for response in heard}) == 4
    assert all(response.nonce and response.version_info for response in heard)
    assert types(heard) == [CLUSTER, LISTENER, ENDPOINTS, ROUTES]


def test_an_ack_is_followed_by_silence_until_something_changes() -> None:
    """C11"""
    client = Sotw()
    (response,) = client.say(CLUSTER)
    assert client.ack(response) == []
    assert client.events == [Acked(CLUSTER, response.version_info)]
    assert contents(client.publish(snapshot({"a": "2"}))[0]) == ["a@2"]


def test_a_rejected_version_is_not_sent_again_but_the_next_one_is() -> None:
    """C12"""
    client = Sotw()
    (response,) = client.say(ENDPOINTS, ["a"])
    assert client.nack(response, ["a"]) == []
    assert client.publish(snapshot()) == []
    assert contents(client.publish(snapshot(endpoints={"a": "2"}))[0]) == ["a@2"]


def test_a_version_published_while_the_nack_was_under_way_is_sent_when_it_arrives() -> None:
    """C12"""
    client = Sotw()
    (response,) = client.say(ENDPOINTS, ["a"])
    assert client.publish(snapshot(endpoints={"a": "2"})) == []
    assert contents(client.nack(response, ["a"])[0]) == ["a@2"]


def test_a_nack_may_bear_the_current_version() -> None:
    """C13"""
    client = Sotw()
    (response,) = client.say(ENDPOINTS, ["a"])
    assert client.nack(response, ["a"], version=response.version_info) == []
    assert isinstance(client.events[-1], Nacked)


def test_the_text_of_a_nack_is_kept_and_cut_and_cleared_by_the_next_ack() -> None:
    """C14"""
    client = Sotw()
    (response,) = client.say(ENDPOINTS, ["a"])
    client.nack(response, ["a"], message="x" * 10_000)
    status = client.session.status(client.snapshot)[0]
    assert status.nack_message == "x" * MAX_NACK_CHARS
    assert status.nack_names == ("a",)
    assert not status.in_sync
    (better,) = client.publish(snapshot(endpoints={"a": "2"}))
    client.ack(better, ["a"])
    status = client.session.status(client.snapshot)[0]
    assert status.nack_message == ""
    assert status.in_sync


def test_a_stale_nonce_is_not_answered_and_the_names_converge_with_the_next_ack() -> None:
    """C15"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (first,) = client.say(ENDPOINTS, ["a"])
    client.ack(first, ["a"])
    (second,) = client.publish(snapshot({"a": "1", "b": "1"}, {"a": "2", "b": "1"}))
    assert client.ack(first, ["a", "b"]) == []
    assert names(client.ack(second, ["a", "b"])[0]) == ["b"]


def test_names_converge_even_when_every_push_races_with_a_request() -> None:
    """C15: updates as fast as round trips must not starve a new name."""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (latest,) = client.say(ENDPOINTS, ["a"])
    got_b = False
    for version in range(2, 6):
        client.snapshot = snapshot({"a": "1", "b": "1"}, {"a": str(version), "b": "1"})
        answers = client.ack(latest, ["a", "b"])
        got_b = got_b or any("b" in names(answer) for answer in answers)
        latest = answers[-1] if answers else latest
    assert got_b


def test_an_empty_nonce_on_a_live_subscription_is_answered() -> None:
    """C16"""
    client = Sotw()
    (first,) = client.say(ENDPOINTS, ["a"])
    again = client.say(ENDPOINTS, ["a"])
    assert names(again[0]) == ["a"]
    assert not [event for event in client.events if isinstance(event, Nacked)]
    assert client.ack(again[0], ["a"]) == []
    assert client.ack(first, ["a"]) == []


def test_an_ack_that_races_with_the_write_finds_its_nonce() -> None:
    """C17"""
    client = Sotw()
    client.session.receive(pb.DiscoveryRequest(type_url=CLUSTER, node=pb.Node(id="n1")))
    assert client.snapshot is not None
    response = client.session.next(client.snapshot, client.bodies)
    assert response is not None
    events = client.session.receive(
        pb.DiscoveryRequest(type_url=CLUSTER, version_info=response.version, response_nonce=response.nonce)
    )
    assert events == (Acked(CLUSTER, response.version),)


def test_names_that_grow_are_served_at_the_same_version() -> None:
    """C18"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (first,) = client.say(ENDPOINTS, ["a"])
    assert names(client.ack(first, ["a", "b"])[0]) == ["b"]


def test_a_name_dropped_and_asked_for_again_is_sent_again() -> None:
    """C19"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (first,) = client.say(ENDPOINTS, ["a", "b"])
    assert client.ack(first, ["b"]) == []
    assert names(client.ack(first, ["a", "b"])[0]) == ["a"]


def test_names_that_shrink_are_silent_and_stay_silent() -> None:
    """C20"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (first,) = client.say(ENDPOINTS, ["a", "b"])
    client.snapshot = snapshot({"a": "1", "b": "1"}, {"a": "2", "b": "1"})
    assert client.ack(first, ["b"]) == []
    assert client.publish(snapshot({"a": "1", "b": "1"}, {"a": "3", "b": "1"})) == []


def test_clusters_and_listeners_are_listed_in_full_endpoints_and_routes_only_when_changed() -> None:
    """C21"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}, routes={"r": "1", "s": "1"}))
    (clusters,) = client.say(CLUSTER)
    client.ack(clusters)
    (endpoints,) = client.say(ENDPOINTS, ["a", "b"])
    client.ack(endpoints, ["a", "b"])
    (routes,) = client.say(ROUTES, ["r", "s"])
    client.ack(routes, ["r", "s"])
    heard = client.publish(snapshot({"a": "2", "b": "1"}, {"a": "1", "b": "2"}, routes={"r": "2", "s": "1"}))
    assert [contents(response) for response in heard] == [["a@2", "b@1"], ["a@1", "b@2"], ["r@2"]]


def test_a_removed_cluster_is_left_out_of_the_next_response() -> None:
    """C21"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (clusters,) = client.say(CLUSTER)
    client.ack(clusters)
    assert names(client.publish(snapshot({"a": "1"}))[0]) == ["a"]


def test_a_name_that_does_not_exist_blocks_nobody_and_is_sent_when_it_appears() -> None:
    """C22"""
    client = Sotw()
    (first,) = client.say(ENDPOINTS, ["a", "later"])
    assert names(first) == ["a"]
    client.ack(first, ["a", "later"])
    assert names(client.publish(snapshot({"a": "1", "later": "1"}))[0]) == ["later"]


def test_an_assignment_nobody_asked_for_is_not_sent() -> None:
    """C23"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    (first,) = client.say(ENDPOINTS, ["a"])
    assert names(first) == ["a"]
    client.ack(first, ["a"])
    assert client.publish(snapshot({"a": "1", "b": "1"}, {"a": "1", "b": "2"})) == []


def test_naming_nothing_means_everything_only_at_first_and_only_for_some_types() -> None:
    """C24"""
    client = Sotw(snapshot=snapshot({"a": "1", "b": "1"}))
    assert client.say(ENDPOINTS) == []
    assert client.say(ROUTES) == []
    (everything,) = client.say(CLUSTER)
    assert names(everything) == ["a", "b"]
    (one,) = client.ack(everything, ["a"])
    assert names(one) == ["a"]
    assert client.ack(one, []) == []
    assert client.publish(snapshot({"a": "2", "b": "2"})) == []


def test_a_star_with_names_means_everything_and_those() -> None:
    """C24: what is sent on request only comes with its name, the rest with the star."""
    client = Sotw(snapshot=snapshot(listeners={"in": "1", "svc": "1"}, on_request_only=["svc"]))
    (wild,) = client.say(LISTENER, ["*"])
    assert names(wild) == ["in"]
    (both,) = client.ack(wild, ["*", "svc"])
    assert names(both) == ["in", "svc"]
    (only,) = client.ack(both, ["svc"])
    assert names(only) == ["svc"]


def test_a_changed_cluster_has_its_endpoints_sent_with_it_although_they_are_the_same() -> None:
    """C25: Envoy waits for them and does not acknowledge the cluster before."""
    client = Sotw()
    (clusters,) = client.say(CLUSTER)
    (endpoints,) = client.say(ENDPOINTS, ["a"])
    client.ack(clusters)
    client.ack(endpoints, ["a"])
    heard = client.publish(snapshot({"a": "2"}))
    assert types(heard) == [CLUSTER, ENDPOINTS]
    assert contents(heard[1]) == ["a@1"]
    repeated = client.say(ENDPOINTS, ["a"], version_info=endpoints.version_info, response_nonce=endpoints.nonce)
    assert repeated == []
    assert client.ack(heard[1], ["a"]) == []
    assert client.ack(heard[0]) == []


def test_after_a_reconnect_endpoints_are_answered_even_at_the_current_version() -> None:
    """C26, C7: a new stream, with the version of the old one and no nonce."""
    old = Sotw()
    (endpoints,) = old.say(ENDPOINTS, ["a"])
    fresh = Sotw()
    assert contents(fresh.say(ENDPOINTS, ["a"], version_info=endpoints.version_info)[0]) == ["a@1"]


def test_the_same_content_published_again_is_not_sent() -> None:
    """C28"""
    client = Sotw()
    for response in [*client.say(CLUSTER), *client.say(ENDPOINTS, ["a"])]:
        client.ack(response, ["a"] if response.type_url == ENDPOINTS else [])
    assert client.publish(snapshot()) == []


def test_one_change_of_everything_is_written_in_the_order_of_need() -> None:
    """C50"""
    client = Sotw()
    for type_url, wanted in ((ROUTES, ["r"]), (LISTENER, []), (ENDPOINTS, ["a"]), (CLUSTER, [])):
        for response in client.say(type_url, wanted):
            client.ack(response, ["a"] if response.type_url == ENDPOINTS else wanted)
    heard = client.publish(snapshot({"a": "2"}, {"a": "2"}, {"in": "2"}, {"r": "2"}))
    assert types(heard) == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]


def test_a_type_that_is_never_acknowledged_holds_up_no_other() -> None:
    """C52"""
    client = Sotw()
    client.say(CLUSTER)
    (endpoints,) = client.say(ENDPOINTS, ["a"])
    client.ack(endpoints, ["a"])
    for version in ("2", "3"):
        (response,) = client.publish(snapshot({"a": "2"}, {"a": version}))
        assert response.type_url == ENDPOINTS
        client.ack(response, ["a"])


def test_what_is_published_while_a_response_is_unacknowledged_becomes_one() -> None:
    """C60, C80"""
    client = Sotw()
    (first,) = client.say(ENDPOINTS, ["a"])
    for version in range(2, 102):
        assert client.publish(snapshot(endpoints={"a": str(version)})) == []
    assert [contents(response) for response in client.ack(first, ["a"])] == [["a@101"]]
