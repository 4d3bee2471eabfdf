"""The gauges of /metrics that describe the last decision; rendered when asked, kept nowhere.

`gpuxds_endpoint_health` is 1 for the state an endpoint is in, with the state as a label, the way
kube-state-metrics does it: an alert can name the state, and nobody has to know our numbering.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpuxds.engine.loop import Engine
from gpuxds.scoring.contract import Health, PoolDecision
from gpuxds.scoring.health import Cause


class DecisionCollector(Collector):
    """Renders the engine's last decision."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """Families for every endpoint, pool and proxy."""
        decisions = list(self.engine.decisions.values())
        yield from endpoint_families(self.engine.clusters())
        yield from pool_families(decisions, self.engine.reservations.held(self.engine.fleet))
        yield from proxy_families(self.engine)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: the families are known once there is a decision."""
        return iter(())


def endpoint_families(decisions: list[PoolDecision]) -> Iterator[Metric]:
    """Weight, wanted weight, health and age of load per endpoint; a slice's weights under its cluster's name."""
    weight = GaugeMetricFamily("gpuxds_endpoint_weight", "Weight as proxies are told.", labels=["pool", "endpoint"])
    wanted = GaugeMetricFamily(
        "gpuxds_endpoint_wanted_weight", "Weight the signals ask for now.", labels=["pool", "endpoint"]
    )
    health = GaugeMetricFamily(
        "gpuxds_endpoint_health", "1 for the state the endpoint is in.", labels=["pool", "endpoint", "state"]
    )
    blind = GaugeMetricFamily(
        "gpuxds_endpoint_relaxation", "0 while load is fresh, 1 when fully blind.", labels=["pool", "endpoint"]
    )
    for decision in decisions:
        for row, endpoint in enumerate(decision.ids):
            labels = [decision.cluster, endpoint]
            weight.add_metric(labels, int(decision.weights[row]))
            wanted.add_metric(labels, int(decision.wanted[row]))
            if decision.cluster != decision.pool:
                continue
            health.add_metric([*labels, Health(int(decision.health[row])).name.lower()], 1)
            blind.add_metric(labels, float(decision.relaxation[row]))
    return iter((weight, wanted, health, blind))


def pool_families(decisions: list[PoolDecision], held: frozenset[str]) -> Iterator[Metric]:
    """Freeze, alarms, serving endpoints, those kept against judgement and those reserved, per pool."""
    frozen = GaugeMetricFamily(
        "gpuxds_pool_frozen",
        "1 while weights are held because many endpoints fell silent at once.",
        labels=["pool"],
    )
    alarms = GaugeMetricFamily("gpuxds_pool_alarms", "Alarms now in force.", labels=["pool"])
    serving = GaugeMetricFamily("gpuxds_pool_serving_endpoints", "Endpoints that take requests.", labels=["pool"])
    reserved = GaugeMetricFamily(
        "gpuxds_pool_reserved_endpoints", "Endpoints set aside for the holder of a reservation.", labels=["pool"]
    )
    kept = GaugeMetricFamily(
        "gpuxds_pool_kept_endpoints",
        "Endpoints judged unfit that stay in service: the ejection cap is reached, or they are the last.",
        labels=["pool"],
    )
    for decision in decisions:
        frozen.add_metric([decision.pool], float(decision.frozen))
        alarms.add_metric([decision.pool], len(decision.alarms))
        serving.add_metric([decision.pool], int(decision.serving.sum()))
        kept.add_metric([decision.pool], int((decision.cause == Cause.KEPT).sum()))
        reserved.add_metric([decision.pool], sum(name in held for name in decision.ids))
    return iter((frozen, alarms, serving, kept, reserved))


def proxy_families(engine: Engine) -> Iterator[Metric]:
    """How many proxies are connected and in sync."""
    statuses = engine.server.proxies()
    yield GaugeMetricFamily("gpuxds_proxies_connected", "Proxies with an open stream.", value=len(statuses))
    in_sync = sum(status.in_sync for status in statuses)
    yield GaugeMetricFamily("gpuxds_proxies_in_sync", "Of those, how many accepted the latest.", value=in_sync)
