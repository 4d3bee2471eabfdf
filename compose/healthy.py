"""Exit status 0 when a page answers 200: `python3 healthy.py HOST:PORT/PATH`.

Health checks run every few seconds in every container and the base image has no curl, so this is as little
Python as does it.
"""

import http.client
import sys

address, _, path = sys.argv[1].partition("/")
try:
    connection = http.client.HTTPConnection(address, timeout=2)
    connection.request("GET", f"/{path}")
    sys.exit(connection.getresponse().status != 200)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"{address}: {error}")
