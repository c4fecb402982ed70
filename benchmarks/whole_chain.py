"""Imports per second through the whole chain, beside the same HTTP calls without any queue.

    python benchmarks/whole_chain.py --imports 200 --rounds 3

Both ask the same stand-in cloud (10 ms for every answer, jobs of 1 to 3 s, files not looked at, no
limit of active jobs), with the same client and the same pauses between looks, in turn in one run.
The plain threads wait and the chain computes: the ratio follows the speed of the CPU.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, Final

import requests

from ims_config.import_request import ImportRequest
from ims_config.records import Progress, State
from ims_ledger import Ledger
from ims_producer import Client
from ims_sandbox.cloud import CloudOptions
from ims_sandbox.stack import Stack, StackOptions
from ims_worker.adapters.otc.clouds import OpenStackClouds
from ims_worker.bootstrap import polling_policy
from ims_worker.decisions import JobRuns, interpret_job, progress_of
from ims_worker.ports import ImageService

NO_LIMIT: Final = 100_000
CLOUD: Final = CloudOptions(latency_s=0.010, job_seconds=(1.0, 3.0), max_active=NO_LIMIT)
GIVE_UP_AFTER_S: Final = 600
LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way, one round."""

    way: str
    imports: int
    seconds: float
    polls_per_import: float
    logins: int
    lags: tuple[float, ...] = ()
    """Seconds from the end of each job to its final state in the ledger."""

    @property
    def per_second(self) -> float:
        return self.imports / self.seconds


def main() -> int:
    given = _arguments()
    settings = {"MAX_ACTIVE_PER_PROJECT": str(NO_LIMIT)}
    readings: list[Reading] = []
    options = StackOptions(cloud=CLOUD, concurrency=given.concurrency, settings=settings)
    with Stack.running(options) as stack:
        # The plain calls find the cloud as the worker does.
        os.environ.update(stack.env)
        for number in range(1, given.rounds + 1):
            for way, run in _ways(stack, given).items():
                _tell(f"round {number} of {given.rounds}: {way}")
                readings.append(_round(stack, way, given.imports, run))
    report = summary(readings) | {"machine": machine(), "imports_per_round": given.imports}
    print(json.dumps(report) if given.json else _table(report, readings))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--imports", type=int, default=200, help="in each round (%(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=32, help="threads of the worker (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each way (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def _ways(stack: Stack, given: argparse.Namespace) -> dict[str, Callable[[int], None]]:
    return {
        "whole chain": lambda count: through_the_queue(stack, count),
        f"plain, {given.concurrency} threads": lambda count: plainly(
            stack, count, given.concurrency
        ),
        "plain, a thread each": lambda count: plainly(stack, count, count),
    }


def _round(stack: Stack, way: str, count: int, run: Callable[[int], None]) -> Reading:
    requests.post(f"{stack.cloud_url}/admin/reset", timeout=10).raise_for_status()
    began = time.perf_counter()
    run(count)
    seconds = time.perf_counter() - began
    books = requests.get(f"{stack.cloud_url}/admin/books", timeout=30).json()
    jobs = books["jobs"]
    if len(jobs) != count:
        raise RuntimeError(f"{way}: {len(jobs)} jobs for {count} imports")
    return Reading(
        way=way,
        imports=count,
        seconds=seconds,
        polls_per_import=statistics.mean(job["polls"] for job in jobs),
        logins=books["logins"],
        lags=tuple(_lags(stack, jobs)) if way == "whole chain" else (),
    )


# --- the ways -------------------------------------------------------------------------------


def _request(number: int) -> ImportRequest:
    return ImportRequest(name=f"image-{number}", image_url="images:a.qcow2", min_disk=40)


def through_the_queue(stack: Stack, count: int) -> None:
    """Submit through the client; done when the ledger says that all have ended."""
    with (
        Client(stack.settings()) as client,
        closing(Ledger(stack.settings().ledger)) as ledger,
    ):
        before = ledger.imports.counts().get(State.SUCCEEDED, 0)
        for number in range(count):
            client.submit(_request(number))
        end = time.monotonic() + GIVE_UP_AFTER_S
        while ledger.imports.counts().get(State.SUCCEEDED, 0) - before < count:
            if time.monotonic() > end:
                raise TimeoutError(f"not ended: {ledger.imports.counts()}")
            time.sleep(LOOK_EVERY_S)


def plainly(stack: Stack, count: int, threads: int) -> None:
    """The same calls by threads that wait: create, look until the job ends, query the image."""
    settings = stack.settings()
    service = OpenStackClouds(settings).service(None)
    # The queue's worker is logged in before the clock starts; so are these.
    service.project()
    pauses = polling_policy(settings)

    def one(number: int) -> None:
        job_id = service.create_image(_request(number), import_id=f"plain-{number}")
        polls, progress, began = 1, Progress(), time.monotonic()
        while isinstance(seen := interpret_job(service.read_job(job_id)), JobRuns):
            running = timedelta(seconds=time.monotonic() - began)
            progress = progress_of(seen.percent, before=progress, running=running)
            eta = None if progress.eta_s is None else timedelta(seconds=progress.eta_s)
            time.sleep(pauses.pause(polls, eta=eta).total_seconds())
            polls += 1
        _query(service, seen)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(count)))


def _query(service: ImageService, seen: Any) -> None:
    image = service.read_image(seen.image_id)
    if image is None or image.status != "active":
        raise RuntimeError(f"no active image: {image}")


def _lags(stack: Stack, jobs: Sequence[dict[str, Any]]) -> list[float]:
    with closing(Ledger(stack.settings().ledger)) as ledger:
        records = {job["import_id"]: ledger.imports.get(job["import_id"]) for job in jobs}
    return [
        (finished - datetime.fromisoformat(job["ends_at"])).total_seconds()
        for job in jobs
        if (finished := records[job["import_id"]].finished_at) is not None
    ]


# --- telling --------------------------------------------------------------------------------


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """Medians over the rounds of each way, and the ratios to the whole chain."""
    ways = list(dict.fromkeys(reading.way for reading in readings))
    rate = {way: statistics.median(r.per_second for r in readings if r.way == way) for way in ways}
    chain = [reading for reading in readings if reading.way == ways[0]]
    lags = sorted(lag for reading in chain for lag in reading.lags)
    return {
        "imports_per_second": {way: round(value, 2) for way, value in rate.items()},
        "ratio_to_plain": {way: round(rate[ways[0]] / rate[way], 3) for way in ways[1:]},
        "polls_per_import": round(statistics.mean(r.polls_per_import for r in chain), 2),
        "polls_per_import_plain": round(
            statistics.mean(r.polls_per_import for r in readings if r.way != ways[0]), 2
        ),
        "detection_lag_s": {
            "median": round(statistics.median(lags), 2),
            "p95": round(lags[int(len(lags) * 0.95)], 2),
        },
        # The books are emptied before each round: what is left is logins during the rounds.
        "logins_in_all_rounds_of_the_chain": sum(reading.logins for reading in chain),
        "rounds": [asdict(reading) | {"lags": len(reading.lags)} for reading in readings],
    }


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "celery": version("celery"),
        "ledger": "SQLite",
    }


def _table(report: dict[str, Any], readings: Sequence[Reading]) -> str:
    size = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        (
            f"{report['imports_per_round']} imports a round; medians of "
            f"{len(readings) // len(report['imports_per_second'])} rounds, the ways in turn"
        ),
        f"machine: {size}",
        "",
        "| way | imports/s | chain : this |",
        "|---|---|---|",
    ]
    for way, rate in report["imports_per_second"].items():
        lines.append(f"| {way} | {rate} | {report['ratio_to_plain'].get(way, '1')} |")
    lag = report["detection_lag_s"]
    lines += [
        "",
        (
            f"polls per import: {report['polls_per_import']} "
            f"(plain: {report['polls_per_import_plain']})"
        ),
        (
            f"detection lag, job end to final state in the ledger: median {lag['median']} s, "
            f"95 % within {lag['p95']} s"
        ),
        f"logins during the rounds: {report['logins_in_all_rounds_of_the_chain']}",
    ]
    return "\n".join(lines)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
