"""Never two, never none: under faults, kills and disasters every import ends once.

`CHAOS_IMPORTS` sets the number of imports of each storm (make chaos N=…).
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.own_postgres import own_postgres
from chaos.storm import HEADER, MILD, ROUGH, Storm, Verdict, deadly_worker, weather
from redis import Redis
from running import Running, restart_redis

from ims_config.settings import Settings
from ims_sandbox.stack import Stack

IMPORTS = int(os.environ.get("CHAOS_IMPORTS", "30"))
WITHIN_S = 120 + 4 * IMPORTS


def flush_redis(stack: Stack) -> None:
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()


STORMS = (
    Storm(name="kills at every place", kills=1),
    Storm(name="rough cloud", faults=ROUGH, seed=7),
    Storm(name="rough cloud and kills", faults=ROUGH, kills=1, seed=11),
    Storm(name="Redis flushed", faults=MILD, disaster=flush_redis, seed=3),
    Storm(name="Redis restarted empty", faults=MILD, disaster=restart_redis, seed=5),
    Storm(name="PostgreSQL crashes, and kills", faults=MILD, kills=1, postgres=True, seed=13),
)


@pytest.fixture(scope="module")
def table(artifacts: Path) -> Iterator[list[Verdict]]:
    verdicts: list[Verdict] = []
    yield verdicts
    text = "\n".join([HEADER, *(verdict.row() for verdict in verdicts)])
    print(f"\n{text}")
    (artifacts / "chaos.md").write_text(f"{text}\n")


@pytest.mark.timeout(WITHIN_S + 120)
@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.name)
def test_every_import_ends_once_whatever_dies(
    storm: Storm, table: list[Verdict], tmp_path: Path
) -> None:
    settings = {"STALE_AFTER_S": "3"}
    with ExitStack() as around:
        if storm.postgres:
            server = around.enter_context(own_postgres())
            settings["LEDGER_URL"] = server.url
            storm = replace(storm, disaster=lambda _: server.crash(down_s=3))
        running = around.enter_context(Running.start(workers=0, settings=settings))
        for _ in range(2):
            deadly_worker(running.stack, tmp_path)
        verdict = weather(running, tmp_path, storm, imports=IMPORTS, within=WITHIN_S)
    table.append(verdict)

    assert verdict.lost == []
    assert verdict.doubled == []
    assert verdict.unexplained == []
    assert verdict.broken_stories == []
    assert verdict.died_alone == []
    if storm.kills:
        assert verdict.kills >= 10
    if storm.faults:
        assert verdict.faults > 0


def test_the_page_about_reliability_has_a_reading_of_every_storm() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()

    assert HEADER in page
    assert [storm.name for storm in STORMS if f"\n| {storm.name} | " not in page] == []
    assert "make chaos N=" in page


def test_the_suite_notices_a_worker_that_does_not_look_first(tmp_path: Path) -> None:
    """A check that cannot fail proves nothing: this worker asks again without having looked."""
    settings = {"SETTLE_S": "0.1", "STALE_AFTER_S": "3"}
    with Running.start(workers=0, settings=settings) as running:
        deadly_worker(running.stack, tmp_path, blind=True)
        storm = Storm(name="blind", faults={"500-after": 0.2, "drop-after": 0.2})
        verdict = weather(running, tmp_path, storm, imports=15, within=60)

    assert verdict.doubled
    assert not verdict.holds


@pytest.mark.parametrize("place", ["after-post", "before-next-message"])
def test_with_the_usual_settings_another_worker_goes_on_within_30_seconds(
    place: str, tmp_path: Path
) -> None:
    """One SIGKILL, with STALE_AFTER_S and SWEEP_EVERY_S as everybody has them."""
    usual = Settings()
    settings = {
        "STALE_AFTER_S": str(usual.stale_after_s.total_seconds()),
        "SWEEP_EVERY_S": str(usual.sweep_every_s.total_seconds()),
    }
    with Running.start(workers=0, settings=settings) as running:
        for _ in range(2):
            deadly_worker(running.stack, tmp_path)
        (tmp_path / f"{place}.0").touch()
        verdict = weather(running, tmp_path, Storm(name=place), imports=12, within=120)

    assert verdict.kills == 1
    assert verdict.holds
    [recovered] = verdict.recovered
    print(f"killed {place}: gone on after {recovered:.1f} s")
    assert recovered < 30
