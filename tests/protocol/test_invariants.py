"""Whatever was said before: once a client has acknowledged everything, it has what it asks for, and silence.

Hypothesis plays clients that subscribe, unsubscribe, acknowledge, reject, answer late and reconnect with what
they have, while snapshots come and go.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuxds.snapshot.model import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from protocol.conversation import Delta, Sotw, contents, snapshot

NAMES = ("a", "b", "c")
NAMED_TYPES = (ENDPOINTS, ROUTES)
ALL_TYPES = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)

versions = st.dictionaries(st.sampled_from(NAMES), st.sampled_from("123"))
snapshots = st.builds(
    lambda clusters, endpoints, listeners, routes: snapshot(clusters, endpoints, listeners, routes),
    versions, versions, versions, versions,
)  # fmt: skip
some_names = st.lists(st.sampled_from((*NAMES, "*", "unknown")), max_size=3)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.sampled_from(ALL_TYPES), some_names, some_names),
        st.tuples(st.just("publish"), snapshots),
        st.tuples(st.just("ack"), st.integers(0, 5)),
        st.tuples(st.just("nack"), st.integers(0, 5)),
    ),
    max_size=25,
)


def content_of(found: Any, type_url: str) -> dict[str, str]:
    return {name: f"{name}@{r.version}" for name, r in found.of(type_url).resources.items()}


@settings(max_examples=300, deadline=None)
@given(start=snapshots, script=moves)
def test_an_incremental_client_ends_with_what_it_asks_for(start: Any, script: list[Any]) -> None:
    client = Delta(snapshot=start)
    have: dict[str, dict[str, str]] = {type_url: {} for type_url in ALL_TYPES}
    asked: dict[str, set[str]] = {type_url: set() for type_url in ALL_TYPES}
    wild: dict[str, bool] = dict.fromkeys(ALL_TYPES, False)
    spoken: set[str] = set()
    unanswered: list[Any] = []

    def take(heard: list[Any]) -> None:
        for response in heard:
            assert response.nonce not in {other.nonce for other in unanswered}
            listed = [found.name for found in response.resources]
            assert len(listed) == len(set(listed))
            assert not set(listed) & set(response.removed_resources)
            unanswered.append(response)
            here = have[response.type_url]
            for text in contents(response):
                here[text.partition("@")[0]] = text
            for name in response.removed_resources:
                here.pop(name, None)

    for move in script:
        match move:
            case ("subscribe", type_url, come, gone):
                legacy = type_url not in spoken and not come and type_url in (CLUSTER, LISTENER)
                spoken.add(type_url)
                wild[type_url] = (wild[type_url] or legacy or "*" in come) and "*" not in gone
                asked[type_url] = (asked[type_url] | set(come) - {"*"}) - set(gone)
                kept = {name for name in have[type_url] if wild[type_url] or name in asked[type_url]}
                have[type_url] = {name: text for name, text in have[type_url].items() if name in kept}
                take(client.say(type_url, come, gone))
            case ("publish", found):
                take(client.publish(found))
            case ("ack", index) if unanswered:
                take(client.ack(unanswered.pop(index % len(unanswered))))
            case ("nack", index) if unanswered:
                take(client.nack(unanswered.pop(index % len(unanswered))))
    for _ in range(100):
        if not unanswered:
            break
        take(client.ack(unanswered.pop(0)))
    assert not unanswered, "the conversation never ends"
    for type_url in ALL_TYPES:
        exists = content_of(client.snapshot, type_url)
        wanted = {name for name in exists if wild[type_url] or name in asked[type_url]}
        assert {name: have[type_url].get(name) for name in wanted} == {name: exists[name] for name in wanted}
        if wild[type_url]:
            assert have[type_url].keys() <= exists.keys() | set()
    assert client.hear() == []


@settings(max_examples=300, deadline=None)
@given(start=snapshots, script=moves)
def test_a_state_of_the_world_client_ends_with_what_it_asks_for(start: Any, script: list[Any]) -> None:
    client = Sotw(snapshot=start)
    have: dict[str, dict[str, str]] = {type_url: {} for type_url in ALL_TYPES}
    asked: dict[str, list[str]] = {}
    latest: dict[str, Any] = {}
    wild: dict[str, bool] = {}
    unanswered: list[Any] = []

    def take(heard: list[Any]) -> None:
        for response in heard:
            if response.type_url in (CLUSTER, LISTENER):
                have[response.type_url].clear()
            for text in contents(response):
                have[response.type_url][text.partition("@")[0]] = text
            latest[response.type_url] = response
            unanswered.append(response)

    def request(type_url: str) -> list[Any]:
        before = latest.get(type_url)
        nonce = before.nonce if before else ""
        return client.say(type_url, asked[type_url], response_nonce=nonce)

    for move in script:
        match move:
            case ("subscribe", type_url, come, _):
                first = type_url not in asked
                wild[type_url] = "*" in come or (
                    not come
                    and type_url in (CLUSTER, LISTENER)
                    and (first or (wild[type_url] and not asked[type_url]))
                )
                asked[type_url] = come
                take(request(type_url))
            case ("publish", found):
                take(client.publish(found))
            case ("ack", index) if unanswered:
                response = unanswered.pop(index % len(unanswered))
                take(client.ack(response, asked[response.type_url]))
            case ("nack", index) if unanswered:
                response = unanswered.pop(index % len(unanswered))
                take(client.nack(response, asked[response.type_url]))
    for _ in range(100):
        if not unanswered:
            break
        response = unanswered.pop(0)
        take(client.ack(response, asked[response.type_url]))
    assert not unanswered, "the conversation never ends"
    for type_url in asked:
        exists = content_of(client.snapshot, type_url)
        wanted = {name for name in exists if wild[type_url] or name in asked[type_url]}
        assert {name: have[type_url].get(name) for name in wanted} == {name: exists[name] for name in wanted}
    assert client.hear() == []
