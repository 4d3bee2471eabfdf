"""Which requests are streamed, read from their bodies inside Envoy, and the total time of those that are not.

A total timeout would cut a stream that makes progress, and whether an answer will be a stream is said in the body
only (`"stream": true`). So a script looks for that (`snapshot.body`, `envoy/streaming.lua`), notes what it found in
a header that routes can match, and hands Envoy the stated time of a request that is not streamed.
"""

from __future__ import annotations

from gpuxds.policy.model import Policy, PoolSpec
from gpuxds.policy.units import LONGEST_S
from gpuxds.snapshot.lua import Literal

HEADER = "x-gpuxds-stream"
"""`false` for a request that is certainly not streamed, for the routes of pools with hedging; absent otherwise."""


def reads_bodies(pool: PoolSpec) -> bool:
    """Whether a pool's policy asks for something that streams must be spared."""
    return bool(pool.timeouts.request or pool.timeouts.header or pool.hedging)


def finding_streams(pool: PoolSpec) -> dict[str, Literal]:
    """What the script is told."""
    spec = pool.timeouts
    return {
        "hedging": pool.hedging is not None,
        "header": spec.header or None,
        "request_s": spec.request,
        "buffer": spec.buffer,
        "longest_s": LONGEST_S,
    }


def stream_headers(policy: Policy) -> list[str]:
    """Request headers that say what this finds out."""
    return [HEADER] if any(pool.hedging for pool in policy.pools) else []
