"""Which real parts this machine has, and how to get those it has not."""

from __future__ import annotations

import shutil

from gpuxds.assets import envoy_binary
from gpuxds.errors import EnvironmentProblem
from support.compose import why_no_stack


def why_absent(part: str) -> str:
    """Empty when the part is here, else a sentence with the command that installs it."""
    match part:
        case "envoy":
            try:
                envoy_binary()
            except EnvironmentProblem as error:
                return str(error)
            return ""
        case "openssl":
            return "" if shutil.which("openssl") else "no openssl; install it with: apt-get install openssl"
        case "docker":
            return why_no_stack()
        case _:
            raise ValueError(f"no such part: {part}")
