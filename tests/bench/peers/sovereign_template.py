"""The assignment of the benchmarks as a template of Atlassian's sovereign: its fastest kind, a Python function."""

import os
import time
from collections.abc import Iterator
from typing import Any

COUNT = int(os.environ["ENDPOINTS"])


def call(**_: Any) -> Iterator[dict[str, Any]]:
    """One assignment whose weights change every second."""
    step = int(time.time()) % 1000
    endpoints = [
        {
            "endpoint": {
                "address": {
                    "socket_address": {"address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "port_value": 8000}
                }
            },
            "health_status": "HEALTHY",
            "load_balancing_weight": n + 1 + step,
        }
        for n in range(COUNT)
    ]
    yield {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "p",
        "endpoints": [{"lb_endpoints": endpoints}],
    }
