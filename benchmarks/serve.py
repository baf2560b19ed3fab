"""What `polygraft serve` answers to many clients at a time: statuses, latencies, texts per second, on loopback.

Each client asks for one text after the other, over a connection that it keeps, and counts every answer; what is not
answered within two minutes counts as `none`. Texts are those of the bundled test set, the model is the bundled nano
mBART unless another is named.

    python benchmarks/serve.py --clients 50 --seconds 60
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import page
import pyarrow.parquet

from polygraft.nano import bundled

PATIENCE = 120.0
NO_ANSWER = "none"


@contextmanager
def server(model: str) -> Iterator[str]:
    """Start a server on a free port; yields its host and port."""
    command = [sys.executable, "-m", "polygraft", "serve", "--model", model, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "POLYGRAFT_TOKEN"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        try:
            line = next(line for line in process.stderr if "http://" in line)
            yield urlsplit(next(word for word in line.split() if word.startswith("http://"))).netloc
        finally:
            process.terminate()


def ask(address: str, texts: Iterator[str], lang: str, until: float, found: list[tuple[str, float]]) -> None:
    """Be a client until a time; adds (status, seconds) for each request."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    while time.monotonic() < until:
        body = json.dumps({"texts": [next(texts)], "source_lang": lang, "target_lang": lang})
        began = time.monotonic()
        try:
            connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status = str(answer.status)
        except (OSError, http.client.HTTPException):
            connection.close()
            status = NO_ANSWER
        found.append((status, time.monotonic() - began))


def measured(args: argparse.Namespace) -> dict[str, object]:
    """Run the clients, and return what became of their requests."""
    rows = pyarrow.parquet.read_table(bundled("polygraft/sample/uk/test.parquet"), columns=["text"])
    every = rows["text"].to_pylist()
    found: list[tuple[str, float]] = []
    with server(args.model) as address:
        began = time.monotonic()
        clients = [
            threading.Thread(
                target=ask,
                args=(address, itertools.cycle(every[n:] + every[:n]), args.lang, began + args.seconds, found),
            )
            for n in range(args.clients)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        seconds = time.monotonic() - began
    times = sorted(spent for _, spent in found)
    return {
        "clients": args.clients,
        "requests": len(found),
        "statuses": dict(Counter(status for status, _ in found)),
        "requests_per_second": len(found) / seconds,
        "p50_seconds": statistics.median(times),
        "p99_seconds": times[min(len(times) - 1, int(0.99 * len(times)))],
        "longest_seconds": times[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="polygraft/nano-mbart")
    parser.add_argument("--lang", default="uk", help="of texts and outputs")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    print(json.dumps(measured(args) | {"machine": page.about()}, indent=1))


if __name__ == "__main__":
    main()
