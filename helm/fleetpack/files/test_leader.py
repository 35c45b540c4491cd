"""Wait until every operator behind the Service is ready and exactly one of them leads; else exit with what was found."""

import os
import socket
import sys
import time
import urllib.request

host, port = os.environ["HOST"], int(os.environ["PORT"])
deadline_seconds = time.monotonic() + float(os.environ["LIMIT_SECONDS"])


def read(address: str, path: str) -> str:
    """Return a page of one operator; raises `OSError` where it does not answer with 200."""
    place = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{place}:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


while True:
    try:
        addresses = sorted({found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        for address in addresses:
            read(address, "/readyz")
        leaders = [address for address in addresses if "\nfleetpack_leader 1.0" in read(address, "/metrics")]
        found = f"{len(addresses)} operators ready, {len(leaders)} of them leading"
        if len(leaders) == 1:
            print(found)
            sys.exit(0)
    except OSError as error:
        found = f"{host}:{port}: {error}"
    if time.monotonic() > deadline_seconds:
        sys.exit(f"no single leader: {found}")
    time.sleep(2)
