"""What Envoys report about the requests they sent (LRS): in flight, answered, failed, per endpoint.

Every report repeats the 61 KB Node, so it is cut off before parsing. Reports carry what changed since the
last one, except requests in progress, which are absolute; an endpoint without any is left out. Several
Envoys add up: the book holds the latest in-progress count per stream and the totals over all. So do the clusters of
one pool: what runs on an endpoint is one number, whichever cluster a request came through.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/load_stats/v3/lrs.proto
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuxds.policy.slices import pool_of
from gpuxds.wire import xds_pb2 as pb

Address = tuple[str, int]
"""IP and port."""
Key = tuple[str, Address]
"""Pool and address."""
NODE_TAG = 0x0A


def without_node(message: bytes) -> bytes:
    """A report from its first byte after what identifies the proxy (field 1), when it begins with that."""
    if not message or message[0] != NODE_TAG:
        return message
    size, shift, at = 0, 0, 1
    while at < len(message):
        byte = message[at]
        size |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return message[at + size :]
    return message


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """One endpoint as all proxies together see it."""

    pool: str
    address: Address
    active: int
    """Requests in flight now."""
    issued: int
    """Requests sent, since the book was opened."""
    ok: int
    errors: int
    error_streak: int
    """Failed in a row, as far as reports can tell: one with more failures than answers continues the streak,
    since the answers are those of requests that began before."""
    dead_streak: int
    """Failed in a row while nothing was answered and nothing is in flight: what a refusal by a busy server is
    not."""
    news: bool
    """The report that was just added says that a request to it was answered or failed."""
    used: bool = False
    """The report that was just added says that a request was sent to it."""


@dataclass(slots=True)
class Totals:
    """Counts over all streams since the book was opened."""

    issued: int = 0
    ok: int = 0
    errors: int = 0
    streak: int = 0
    dead_streak: int = 0


@dataclass(slots=True)
class LoadBook:
    """Adds up reports. No I/O."""

    active: dict[int, dict[Key, int]] = field(default_factory=dict)
    """Stream -> requests in flight per endpoint, as it reported last."""
    in_flight: Counter[Key] = field(default_factory=Counter)
    """The same over all streams, kept up with each report."""
    totals: dict[Key, Totals] = field(default_factory=dict)
    clusters: frozenset[str] = frozenset()

    def take(self, stream: int, report: pb.LoadStatsRequest, clusters: Iterable[str]) -> list[EndpointLoad]:
        """Add a report; answers with the endpoints of `clusters` that it, or the one before it, was about."""
        kept = frozenset(clusters)
        if kept != self.clusters:
            self.clusters = kept
            pools = {pool_of(cluster) for cluster in kept}
            self.totals = {key: found for key, found in self.totals.items() if key[0] in pools}
        now: dict[Key, int] = {}
        news: set[Key] = set()
        used: set[Key] = set()
        for cluster in report.cluster_stats:
            if cluster.cluster_name in kept:
                for locality in cluster.upstream_locality_stats:
                    for stats in locality.upstream_endpoint_stats:
                        self.add(pool_of(cluster.cluster_name), stats, now, news, used)
        before = self.active.get(stream, {})
        self.close(stream)
        self.active[stream] = now
        self.in_flight.update(now)
        return [self.load(key, key in news, key in used) for key in {**before, **now} if key in self.totals]

    def add(
        self,
        pool: str,
        stats: pb.UpstreamEndpointStats,
        in_flight: dict[Key, int],
        news: set[Key],
        used: set[Key],
    ) -> None:
        """Add one endpoint's line."""
        socket = stats.address.socket_address
        key = (pool, (socket.address, socket.port_value))
        in_flight[key] = in_flight.get(key, 0) + stats.total_requests_in_progress
        if stats.total_successful_requests or stats.total_error_requests:
            news.add(key)
        if stats.total_issued_requests:
            used.add(key)
        totals = self.totals.setdefault(key, Totals())
        totals.issued += stats.total_issued_requests
        totals.ok += stats.total_successful_requests
        totals.errors += stats.total_error_requests
        if stats.total_error_requests > stats.total_successful_requests:
            totals.streak += stats.total_error_requests
        elif stats.total_successful_requests:
            totals.streak = 0
        totals.dead_streak += stats.total_error_requests
        if stats.total_successful_requests:
            totals.dead_streak = 0

    def load(self, key: Key, news: bool, used: bool) -> EndpointLoad:
        """One endpoint over all streams."""
        totals = self.totals[key]
        active = self.in_flight[key]
        if active > 0:
            totals.dead_streak = 0
        counts = (totals.issued, totals.ok, totals.errors, totals.streak, totals.dead_streak)
        return EndpointLoad(*key, active, *counts, news, used)

    def close(self, stream: int) -> None:
        """A stream ended: what it had in flight is no longer known."""
        self.in_flight.subtract(self.active.pop(stream, {}))
