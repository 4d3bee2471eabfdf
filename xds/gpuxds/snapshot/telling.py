"""What an answer says about its way: the endpoint that served it, and at which attempt."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core import v3 as core

from gpuxds.policy.model import ListenerSpec

TOLD = {"x-gpuxds-endpoint": "%UPSTREAM_HOST%", "x-gpuxds-attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}
"""Header -> Envoy's words for its value. An answer of Envoy's own has no endpoint, and does without."""


def answer_headers(spec: ListenerSpec) -> list[core.HeaderValueOption]:
    """Headers Envoy adds to every answer, in place of what an endpoint says under their names."""
    if not spec.response_headers:
        return []
    overwrite = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        core.HeaderValueOption(header=core.HeaderValue(key=name, value=value), append_action=overwrite)
        for name, value in TOLD.items()
    ]
