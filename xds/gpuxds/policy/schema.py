"""The JSON Schema of a policy, for editors: `# yaml-language-server: $schema=...`.

Pydantic's schema describes what Python holds; files also hold durations as text and strategies by name
alone, so those two are put in.
"""

from __future__ import annotations

from typing import Any

from gpuxds.policy.model import Policy
from gpuxds.policy.strategies import NAMES


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a policy file."""
    schema = Policy.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "gpuxds policy"
    strategy = schema["$defs"]["PoolSpec"]["properties"]["strategy"]
    by_mapping = {key: strategy.pop(key) for key in ("oneOf", "discriminator") if key in strategy}
    strategy["anyOf"] = [{"type": "string", "enum": list(NAMES)}, by_mapping]
    strategy.pop("default", None)
    return schema
