"""The command line: each module parses one group of commands, builds what they need and runs it.

Commands are thin: they hold no logic that a test could want without them. Modules are imported when their
command runs, so that `gpuxds check` does not pay for gRPC.
"""

from gpuxds.cli.app import main

__all__ = ["main"]
