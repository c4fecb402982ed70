"""Flower's pages as a person sees them, in a real browser."""

import re
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import requests
from builders import a_body
from running import Running, until


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A stack on which one import has succeeded and one has failed."""
    with Running.start(flower=True) as running:
        for name, file in (("ubuntu-24.04", "ubuntu.qcow2"), ("broken", "broken.qcow2")):
            running.client.submit(a_body(name=name, image_url=f"images:{file}"))
        until(running.idle, "both have ended")
        yield running


class Browser:
    """Chromium without a window; each call is a visit of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        self._command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--window-size=1600,640", "--virtual-time-budget=8000",
        ]  # fmt: skip

    def text(self, url: str) -> str:
        """The words on a page after its scripts have run."""
        page = self._visit("--dump-dom", url)
        page = re.sub(r"(?s)<(script|style).*?</\1>", " ", page)
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())

    def screenshot(self, url: str, file: Path) -> None:
        self._visit(f"--screenshot={file}", url)

    def _visit(self, *argv: str) -> str:
        done = subprocess.run(
            [*self._command, *argv], capture_output=True, text=True, timeout=90, check=True
        )
        return done.stdout


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Browser:
    return Browser(chromium, tmp_path / "profile")


def opened(running: Running, page: str) -> str:
    pages = running.stack.flower
    assert pages is not None
    return f"{pages.url}/{page}".replace("http://", f"http://{pages.basic_auth}@")


def test_imports_can_be_read_and_no_secret_is_shown(
    running: Running, browser: Browser, artifacts: Path
) -> None:
    settings = running.stack.settings()
    secrets = [
        running.stack.keys.secret_key,
        settings.redis.partition("//:")[2].partition("@")[0],
        *settings.secret_keys,
    ]

    browser.screenshot(opened(running, "tasks"), artifacts / "flower-tasks.png")
    pages = {page: browser.text(opened(running, page)) for page in ("tasks", "workers", "broker")}

    tasks = pages["tasks"]
    assert "ubuntu-24.04 from images:ubuntu.qcow2" in tasks
    assert "broken from images:broken.qcow2" in tasks
    assert "IMG.0057: The image file" in tasks
    assert re.search(r"ims.poll_import SUCCESS .* image [0-9a-f-]{36} [1-9]", tasks)
    assert "Retries" in tasks
    assert "ker1@sandbox Online" in pages["workers"]
    assert all(secrets)
    assert [secret for secret in secrets if secret in str(pages)] == []


def test_flower_asks_who_is_there(running: Running) -> None:
    pages = running.stack.flower
    assert pages is not None

    assert requests.get(f"{pages.url}/tasks", timeout=10).status_code == 401
    assert requests.get(f"{pages.url}/api/tasks", timeout=10).status_code == 401
    assert requests.get(opened(running, "tasks"), timeout=10).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        "api/worker/shutdown/worker1@sandbox",
        "api/worker/pool/shrink/worker1@sandbox?n=1",
        "api/task/send-task/ims.import_image",
    ],
)
def test_flower_changes_nothing_unless_asked_to(running: Running, call: str) -> None:
    pages = running.stack.flower
    assert pages is not None

    answer = requests.post(
        f"{pages.url}/{call}", headers=pages.header, json={"args": [a_body()]}, timeout=10
    )

    assert answer.status_code in (401, 403, 404, 405)
    assert running.stack.app.control.ping(timeout=2)


def test_the_history_survives_a_restart_of_flower(running: Running) -> None:
    before = {import_id for import_id in known_to_flower(running) if import_id}

    running.stack.restart_flower()

    until(lambda: before <= set(known_to_flower(running)), "the old tasks are back")
    assert len(before) >= 4


def known_to_flower(running: Running) -> list[str]:
    pages = running.stack.flower
    assert pages is not None
    answer = requests.get(f"{pages.url}/api/tasks", headers=pages.header, timeout=10)
    return [*answer.json()]
