"""What a pool's policy makes Envoy do with a request, in sentences for `gpuxds explain`.

Weights say where a request goes; these say how often, how long and beside what else it is tried. A rule that is not
used has no sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuxds.policy.model import PoolSpec


def rules(pool: PoolSpec) -> list[str]:
    """Every rule in force for a pool."""
    return [*of_retries(pool), *of_timeouts(pool)]


def of_retries(pool: PoolSpec) -> Iterator[str]:
    """How often a request is tried."""
    retries, hedging = pool.retries, pool.hedging
    if retries.attempts == 0:
        yield "a request is tried once"
        return
    answers = "".join(f", {status}" for status in sorted(set(retries.on_status)))
    yield (
        f"up to {retries.attempts} retries, each on an endpoint not tried yet, before the first byte only, after: "
        f"a connection that fails or breaks{answers}"
    )
    yield (
        f"retries under way: at most {retries.budget_percent:g} % of the requests under way for the first time, "
        f"{retries.budget_minimum} in any case"
    )
    if hedging:
        yield (
            f"requests of up to {hedging.max_body_bytes} bytes that are not streamed: a second try beside the "
            f"first after {hedging.after:g} s of silence"
        )
    if retries.stuck_after:
        others = "other requests" if hedging else "any request"
        yield f"{others}: a second try beside the first after {retries.stuck_after:g} s of silence"


def of_timeouts(pool: PoolSpec) -> Iterator[str]:
    """How long a request may take."""
    timeouts = pool.timeouts
    yield f"a request is cut after {timeouts.idle:g} s of silence" if timeouts.idle else "silence cuts no request"
    stated = [f"{timeouts.buffer:g} x the seconds in {timeouts.header}"] if timeouts.header else []
    if timeouts.request:
        total_s = timeouts.buffer * timeouts.request
        stated.append(f"{total_s:g} s{' when it says none' if stated else ''}")
    if stated:
        yield f"a request that is not streamed is cut, in total, after {' or '.join(stated)}"
