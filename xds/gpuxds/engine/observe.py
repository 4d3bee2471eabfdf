"""Our own numbers, for Prometheus: what was decided, pushed, refused and reloaded.

Counters and histograms are kept where things happen; gauges per endpoint are rendered from the last decision
when somebody asks, so that a decision pays nothing for them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

DECIDE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Every metric that is kept; names start with `gpuxds_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.reload_failures = Counter(
            "gpuxds_policy_reload_failures", "Policy files refused since start.", registry=registry
        )
        self.reload_success = Gauge(
            "gpuxds_policy_last_reload_success", "1 when the last attempt to load took effect.", registry=registry
        )
        self.reload_at = Gauge(
            "gpuxds_policy_last_reload_timestamp_seconds", "When the policy in force was loaded.", registry=registry
        )
        self.decide_s = Histogram(
            "gpuxds_decide_seconds",
            "Time of one decision over all pools.",
            buckets=DECIDE_BUCKETS_S,
            registry=registry,
        )
        self.pushes = Counter(
            "gpuxds_pushes", "Assignments published, by what made it so.", ["pool", "reason"], registry=registry
        )
        self.acks = Counter("gpuxds_xds_acks", "Responses a proxy accepted.", ["type"], registry=registry)
        self.nacks = Counter("gpuxds_xds_nacks", "Responses a proxy rejected.", ["type"], registry=registry)
        self.refused_snapshots = Counter(
            "gpuxds_snapshots_refused", "Snapshots that contradicted themselves.", registry=registry
        )
        self.defects = Counter(
            "gpuxds_defects", "Times a defect of gpuxds was contained; report it.", ["where"], registry=registry
        )
        self.stalled = Counter(
            "gpuxds_xds_stalled_streams", "Streams closed since the proxy took or acknowledged nothing.",
            registry=registry,
        )  # fmt: skip
        self.state_failures = Counter(
            "gpuxds_state_save_failures", "State that could not be saved.", registry=registry
        )

    def render(self) -> bytes:
        """The exposition of the kept metrics."""
        return generate_latest(self.registry)
