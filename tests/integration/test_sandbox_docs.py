"""docs/sandbox.md is true: its commands work as written, its tables are complete."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ims_sandbox.cloud import CloudOptions, running_cloud
from ims_sandbox.cloud.faults import Kind

DOCS = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()


@pytest.fixture
def url() -> Iterator[str]:
    with running_cloud(CloudOptions()) as cloud:
        yield cloud.url


def test_every_option_and_every_fault_is_explained() -> None:
    options = {field.name for field in dataclasses.fields(CloudOptions)}
    named = set(re.findall(r"`([\w-]+)`", DOCS))

    assert options - named == set()
    assert {str(kind) for kind in Kind} - named == set()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_work_as_written(url: str) -> None:
    commands = re.findall(r"(?m)^curl .*$", DOCS)

    for command in commands:
        asked = command.replace("http://127.0.0.1:8774", url).replace("curl ", "curl --fail ")
        done = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    assert len(commands) == 8
    options = requests.get(f"{url}/admin/books", timeout=10).json()["options"]
    assert options["job_seconds"] == [20, 40]
