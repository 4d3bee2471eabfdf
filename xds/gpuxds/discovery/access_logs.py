"""What Envoys log about requests that ended (gRPC access logs): latency, time to first byte and tries, per
endpoint.

Load reports count requests but do not time them. Where the policy asks, every proxy streams its access log here;
each message is a batch of about a second, and is boiled down to one mean per endpoint before anything is kept.
Answers with 5xx are not timed: a failure that comes fast is not speed.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/accesslog/v3/als.proto
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuxds.discovery.loads import Key
from gpuxds.policy.slices import pool_of
from gpuxds.wire import xds_pb2 as pb

FIRST_ERROR = 500


@dataclass(slots=True)
class Served:
    """What one batch says about one endpoint."""

    count: int = 0
    """Requests it answered, failures not counted."""
    latency_s: float = 0.0
    """Sum over those of the time until the last byte was sent to the client."""
    ttfb_s: float = 0.0
    """Sum over those of the time until the first byte came from the endpoint."""
    last_s: float = 0.0
    """Latency of the last of them."""
    retries: int = 0
    """Tries before the one that ended here."""


def boiled_down(message: pb.StreamAccessLogsMessage) -> dict[Key, Served]:
    """One batch, per pool and address; requests that reached no endpoint are left out."""
    found: dict[Key, Served] = {}
    for entry in message.http_logs.log_entry:
        common = entry.common_properties
        socket = common.upstream_remote_address.socket_address
        if not socket.address:
            continue
        key = (pool_of(common.upstream_cluster), (socket.address, socket.port_value))
        served = found.setdefault(key, Served())
        served.retries += max(0, common.upstream_request_attempt_count - 1)
        if 0 < entry.response.response_code.value < FIRST_ERROR:
            first, whole = common.time_to_first_upstream_rx_byte, common.duration
            served.last_s = whole.seconds + whole.nanos / 1e9
            served.count += 1
            served.latency_s += served.last_s
            served.ttfb_s += first.seconds + first.nanos / 1e9
    return found
