"""The benchmarks run, and what they print is what happened."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(script: str, *argv: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *argv, "--rounds", "1", "--json"],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_posts_are_measured_beside_a_bare_route() -> None:
    report, _ = measured("api_load.py", "--seconds", "1")

    assert set(report["posts_per_second"]) == {"API", "bare route"}
    assert report["ratio"] > 0
    assert 0 < report["p50_ms"]["API"] <= report["p99_ms"]["API"]


def test_the_whole_chain_is_measured_beside_plain_calls() -> None:
    report, progress = measured("whole_chain.py", "--imports", "10")

    assert set(report["ratio_to_plain"]) == {"plain, 32 threads", "plain, a thread each"}
    assert all(rate > 0 for rate in report["imports_per_second"].values())
    assert report["polls_per_import"] >= 1
    assert 0 <= report["detection_lag_s"]["median"] <= report["detection_lag_s"]["p95"] < 10
    assert report["logins_in_all_rounds_of_the_chain"] <= 1
    assert "round 1 of 1: whole chain" in progress
