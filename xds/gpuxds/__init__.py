"""gpuxds turns what GPU inference servers say about themselves into xDS.

The packages are layers, lowest first: `errors`, `wire` (messages of the hot path), `fleet` (which endpoints
exist), `policy` (what the operator asked for), `signals` (what the endpoints say), `scoring` (what follows
from it), `snapshot` (how Envoy is told), `discovery` (the xDS server), `engine` (the loop that connects
them), `admin` (HTTP) and `cli`. `simulator` stands beside them and is known to the command line alone.
"""

from importlib.metadata import version

__version__ = version("gpuxds")
