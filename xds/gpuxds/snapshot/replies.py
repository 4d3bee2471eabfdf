"""Answers that Envoy gives by itself, in the shape clients of OpenAI's API expect: JSON that says why.

Reference: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_conn_man/local_reply
"""

from __future__ import annotations

import json
import math

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import NullValue, Struct, Value


def error_reply(
    when: accesslog.AccessLogFilter, message: str, kind: str, code: str, retry_after_s: float | None = None
) -> hcm.ResponseMapper:
    """The body, and `retry-after`, of Envoy's own answers for which `when` holds.

    `message` may have Envoy's substitution commands, such as `%REQ(NAME)%`.
    """
    error = {
        "message": Value(string_value=message),
        "type": Value(string_value=kind),
        "param": Value(null_value=NullValue.NULL_VALUE),
        "code": Value(string_value=code),
    }
    body = Struct(fields={"error": Value(struct_value=Struct(fields=error))})
    return hcm.ResponseMapper(
        filter=when,
        body_format_override=core.SubstitutionFormatString(json_format=body),
        headers_to_add=[] if retry_after_s is None else [replaced("retry-after", whole_seconds(retry_after_s))],
    )


def error_body(message: str, kind: str, code: str) -> str:
    """The same body for a route that answers by itself."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def replaced(name: str, value: str) -> core.HeaderValueOption:
    """A header that is set, whatever it was."""
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, value=value),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def whole_seconds(duration_s: float) -> str:
    """A duration as `retry-after` has it: whole seconds, at least one, never too few."""
    return str(max(1, math.ceil(duration_s)))


def has_status(status: int) -> accesslog.AccessLogFilter:
    """Answers with this status."""
    value = core.RuntimeUInt32(default_value=status, runtime_key=f"gpuxds.reply_{status}")
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilterOp.EQ, value=value)
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def has_flag(*flags: str) -> accesslog.AccessLogFilter:
    """Answers with any of these response flags, for example UH."""
    return accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=list(flags)))


def request_has(name: str, value: str) -> accesslog.AccessLogFilter:
    """Answers to requests with this header."""
    header = route_v3.HeaderMatcher(name=name, string_match=matcher.StringMatcher(exact=value))
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=header))


def both(one: accesslog.AccessLogFilter, other: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    """Answers for which both hold."""
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[one, other]))
