"""A run under faults and kills, and the judgement of it from the cloud's own state."""

import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests
from builders import a_body
from running import Running

from ims_config.records import Event, ImportResult, State
from ims_ledger.transitions import allowed
from ims_sandbox.stack import Stack

HERE: Final = Path(__file__).parent
PLACES: Final = (
    "before-intent", "after-intent", "after-post", "before-recording", "after-recording",
    "after-uncertain", "after-verifying", "after-look", "before-next-message", "while-it-waits",
    "before-the-end", "before-the-result", "before-reported", "after-claim", "in-the-sweep",
)  # fmt: skip
NO_FAULTS: Final[Mapping[str, float]] = {}
MILD: Final = {"429": 0.03, "503-before": 0.03, "slow": 0.01}
ROUGH: Final = {
    "429": 0.03, "401": 0.02, "500-before": 0.03, "500-after": 0.03, "503-before": 0.03,
    "504-after": 0.03, "drop-before": 0.03, "drop-after": 0.03, "garbage-after": 0.02,
    "truncated-after": 0.02, "slow": 0.01, "fail-top": 0.01, "fail-entities": 0.01,
    "fail-bare": 0.01,
}  # fmt: skip
LIVING_IMAGES: Final = ("queued", "saving", "active")


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What shall go wrong. `kills`: how often at each place; `disaster`: once, in the middle."""

    name: str
    faults: Mapping[str, float] = field(default_factory=dict)
    kills: int = 0
    disaster: Callable[[Stack], None] | None = None
    postgres: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a storm."""

    storm: str
    imports: int
    kills: int
    faults: int
    states: Mapping[str, int]
    lost: Sequence[str]
    doubled: Sequence[str]
    unexplained: Sequence[str]
    broken_stories: Sequence[str]
    died_alone: Sequence[str]
    """Workers that ended and were not killed, with the end of their logs."""
    recovered: Sequence[float]
    """Seconds from each kill with an import in hand to the next thing that happened to it."""

    @property
    def holds(self) -> bool:
        return not (
            self.lost or self.doubled or self.unexplained or self.broken_stories or self.died_alone
        )

    def row(self) -> str:
        worst = f"{max(self.recovered):.0f}" if self.recovered else "-"
        ends = ", ".join(f"{number} {state}" for state, number in sorted(self.states.items()))
        return (
            f"| {self.storm} | {self.imports} | {self.kills} | {self.faults} | {len(self.lost)} "
            f"| {len(self.doubled)} | {len(self.unexplained)} | {len(self.died_alone)} "
            f"| {worst} | {ends} |"
        )


HEADER: Final = (
    "| storm | imports | kills | faults | lost | doubled | without reason | workers died alone "
    "| longest recovery, s | ends |\n|---|---|---|---|---|---|---|---|---|---|"
)


def weather(
    running: Running, folder: Path, storm: Storm, *, imports: int, within: float
) -> Verdict:
    """Submit, let it storm until all have ended, and judge."""
    for place in PLACES:
        for number in range(storm.kills):
            (folder / f"{place}.{number}").touch()
    requests.post(
        f"{running.stack.cloud_url}/admin/schedule",
        json={"seed": storm.seed, "rates": dict(storm.faults)},
        timeout=10,
    ).raise_for_status()
    with replacing_dead_workers(running.stack, folder) as died_alone:
        ids = [running.client.submit(a_body(name=f"image-{n}")) for n in range(imports)]
        if storm.disaster is not None:
            wait(lambda: _ended(running, ids) >= imports // 4, within)
            storm.disaster(running.stack)
        wait(lambda: _ended(running, ids) == imports, within)
        # Late copies of messages get their chance to do harm before the state is read.
        wait(running.idle, 60)
    return judge(running, storm.name, ids, folder, died_alone)


def _ended(running: Running, ids: Sequence[str]) -> int:
    return sum(running.ledger.imports.get(import_id).state.terminal for import_id in ids)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; what is missing then shows in the verdict."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


@contextmanager
def replacing_dead_workers(stack: Stack, folder: Path) -> Iterator[list[str]]:
    """A supervisor, as systemd or a container engine would be; tells which ended by themselves."""
    done = threading.Event()
    died_alone: list[str] = []

    def supervise() -> None:
        while not done.wait(0.2):
            for worker in [worker for worker in stack.workers if not worker.running]:
                if worker.process.returncode != -signal.SIGKILL:
                    died_alone.append(f"{worker.name}: {worker.tail()}")
                stack.stop(worker)
                # No waiting: it may be killed, or Redis may go, before it is ready.
                deadly_worker(stack, folder, wait=False)

    supervisor = threading.Thread(target=supervise, name="supervisor")
    supervisor.start()
    try:
        yield died_alone
    finally:
        done.set()
        supervisor.join()


def deadly_worker(stack: Stack, folder: Path, *, blind: bool = False, wait: bool = True) -> None:
    env = {"CHAOS_FOLDER": str(folder), "PYTHONPATH": str(HERE)}
    if blind:
        env["CHAOS_BLIND"] = "1"
    stack.worker(app="deadly", env=env, wait=wait)


# --- the judgement --------------------------------------------------------------------------


def judge(
    running: Running, name: str, ids: Sequence[str], folder: Path, died_alone: Sequence[str]
) -> Verdict:
    """Lost, doubled, unexplained: the ledger against the cloud's own state."""
    state = running.cloud_state()
    records = {import_id: running.ledger.imports.get(import_id) for import_id in ids}
    events = {import_id: running.client.events(import_id) for import_id in ids}
    living = Counter(
        image["import_id"] for image in state["images"] if image["status"] in LIVING_IMAGES
    )
    kills = _kills(folder)
    return Verdict(
        storm=name,
        imports=len(ids),
        kills=len(kills),
        faults=sum(state["faults"].values()),
        states=Counter(str(record.state) for record in records.values()),
        lost=[
            f"{record.id} is {record.state}: {record.reason}"
            for record in records.values()
            if _lost(record, living, state)
        ],
        doubled=[import_id for import_id in ids if living[import_id] > 1],
        unexplained=[record.id for record in records.values() if _unexplained(record)],
        broken_stories=[
            import_id for import_id in ids if not _one_story(records[import_id], events[import_id])
        ],
        died_alone=died_alone,
        recovered=list(_recovered(kills, events)),
    )


def _lost(record: ImportResult, living: Mapping[str, int], state: dict[str, Any]) -> bool:
    """Not ended; or reported with an image that the cloud does not know as active; or the other
    way round."""
    if not record.state.terminal:
        return True
    if record.state is State.SUCCEEDED:
        active = {image["id"] for image in state["images"] if image["status"] == "active"}
        return record.image_id not in active
    return living[record.id] > 0


def _unexplained(record: ImportResult) -> bool:
    return record.state is State.FAILED and not (
        record.error and record.error.code and record.error.message and record.reason
    )


def _one_story(record: ImportResult, events: Sequence[Event]) -> bool:
    """One unbroken way along the allowed arrows, from nothing to where the record is."""
    steps = [event for event in events if event.to_state is not None]
    if not steps or steps[0].from_state is not None or steps[-1].to_state != record.state:
        return False
    return all(
        before.to_state == after.from_state and allowed(after.from_state, after.to_state)
        for before, after in itertools.pairwise(steps)
        if before.to_state is not None and after.from_state is not None and after.to_state
    )


def _kills(folder: Path) -> list[dict[str, Any]]:
    file = folder / "kills.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _recovered(
    kills: Sequence[dict[str, Any]], events: Mapping[str, Sequence[Event]]
) -> Iterator[float]:
    """The next thing is an event, or the next kill: that one had the import in hand again."""
    for kill in kills:
        happened = [event.at.timestamp() for event in events.get(kill["import_id"], ())]
        happened += [
            other["at"] for other in kills if other["import_id"] == kill["import_id"] != ""
        ]
        if later := [at for at in happened if at > kill["at"]]:
            yield min(later) - kill["at"]
