"""POSTs per second that the HTTP API sustains, beside a bare route that only sends a Celery task.

    python benchmarks/api_load.py --seconds 10 --rounds 3

The API checks the key, counts the request, checks its rules, commits it to the ledger (SQLite) and
queues it; the bare route (benchmarks/bare_route.py) sends a message and forgets. Both are one
uvicorn process on the same machine and the same Valkey, asked in turn by the same clients in one
run: absolute figures depend on the machine and its neighbours, the ratio hardly does.
"""

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from whole_chain import machine

from ims_sandbox.process import Process, free_port, listens
from ims_sandbox.stack import Stack, StackOptions

HERE: Final = Path(__file__).parent
BODY: Final = json.dumps({"name": "image", "image_url": "images:a.qcow2", "min_disk": 40})


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where to POST."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way, one round: how long each answer took, in seconds."""

    way: str
    seconds: float
    took: Sequence[float]

    @property
    def per_second(self) -> float:
        return len(self.took) / self.seconds


def main() -> int:
    given = _arguments()
    readings: list[Reading] = []
    settings = {"API_RATE_PER_MINUTE": "100000000"}
    with (
        Stack.running(StackOptions(workers=0, api=True, settings=settings)) as stack,
        _bare(stack) as bare_port,
    ):
        if stack.api is None:
            raise RuntimeError("the stack has no API")
        port = int(stack.api.url.rpartition(":")[2])
        ways = (
            Way(name="API", port=port, path="/v1/imports", headers=stack.api.header),
            Way(name="bare route", port=bare_port, path="/imports", headers={}),
        )
        for number in range(1, given.rounds + 1):
            for way in ways:
                print(f"round {number} of {given.rounds}: {way.name}", file=sys.stderr, flush=True)
                readings.append(load(way, given.seconds, given.clients))
    report = summary(readings) | {
        "machine": machine(),
        "clients": given.clients,
        "seconds_per_round": given.seconds,
    }
    print(json.dumps(report) if given.json else _table(report))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each round (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="connections (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each way (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


@contextmanager
def _bare(stack: Stack) -> Iterator[int]:
    port = free_port()
    argv = ["-m", "uvicorn", "--app-dir", str(HERE), "bare_route:app", "--port", str(port)]
    part = Process(
        name="bare",
        argv=[sys.executable, *argv, "--log-level", "warning"],
        env=os.environ | {"BARE_BROKER": stack.redis_url},
        folder=stack.folder,
        ready=lambda: listens(port),
    )
    part.start()
    try:
        part.wait_ready()
        yield port
    finally:
        part.stop()


def load(way: Way, seconds: float, clients: int) -> Reading:
    """POST on `clients` connections, each as fast as it is answered, for so many seconds."""
    end = time.perf_counter() + seconds
    took: list[list[float]] = [[] for _ in range(clients)]
    failures: list[str] = []

    def client(mine: list[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", way.port, timeout=30)
        headers = {"Content-Type": "application/json", **way.headers}
        while (began := time.perf_counter()) < end:
            connection.request("POST", way.path, BODY, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.client.ACCEPTED:
                failures.append(f"{way.name}: {answer.status} {body[:200]!r}")
                return
            mine.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=client, args=(mine,)) for mine in took]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])
    answers = sorted(one for mine in took for one in mine)
    return Reading(way=way.name, seconds=time.perf_counter() - began, took=answers)


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """Medians over the rounds of each way, and the ratio."""
    ways = list(dict.fromkeys(reading.way for reading in readings))
    of = {way: [reading for reading in readings if reading.way == way] for way in ways}
    rate = {way: statistics.median(r.per_second for r in of[way]) for way in ways}
    return {
        "posts_per_second": {way: round(value, 1) for way, value in rate.items()},
        "ratio": round(rate[ways[0]] / rate[ways[1]], 3),
        "p50_ms": {way: _percentile(of[way], 0.50) for way in ways},
        "p99_ms": {way: _percentile(of[way], 0.99) for way in ways},
    }


def _percentile(readings: Sequence[Reading], share: float) -> float:
    each = (reading.took[int(len(reading.took) * share)] for reading in readings)
    return round(statistics.median(each) * 1000, 1)


def _table(report: Mapping[str, Any]) -> str:
    size = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        (
            f"{report['clients']} connections, {report['seconds_per_round']} s a round; "
            f"machine: {size}"
        ),
        "",
        "| way | POSTs/s | p50 ms | p99 ms |",
        "|---|---|---|---|",
        *(
            f"| {way} | {rate} | {report['p50_ms'][way]} | {report['p99_ms'][way]} |"
            for way, rate in report["posts_per_second"].items()
        ),
        "",
        f"API : bare route = {report['ratio']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
