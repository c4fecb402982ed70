"""Flower's pages in a real browser."""

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
    """A stack with one succeeded and one failed import."""
    with Running.start(flower=True) as running:
        for name, file in (("ubuntu-24.04", "ubuntu.qcow2"), ("broken", "broken.qcow2")):
            running.client.submit(a_body(name=name, image_url=f"images:{file}"))
        until(running.idle, "both have ended")
        yield running


class Browser:
    """Headless Chromium; each call starts a new browser."""

    def __init__(self, program: str, profile: Path) -> None:
        self._command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--window-size=1600,640", "--virtual-time-budget=8000",
        ]  # fmt: skip

    def text(self, url: str) -> str:
        """The text of a page after its scripts have run."""
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


def page_url(running: Running, page: str) -> str:
    flower = running.stack.flower
    assert flower is not None
    return f"{flower.url}/{page}".replace("http://", f"http://{':'.join(flower.auth)}@")


def test_imports_can_be_read_and_no_secret_is_shown(
    running: Running, browser: Browser, artifacts: Path
) -> None:
    settings = running.stack.settings()
    secrets = [
        running.stack.keys.secret_key,
        settings.redis.partition("//:")[2].partition("@")[0],
        *settings.secret_keys,
    ]

    browser.screenshot(page_url(running, "tasks"), artifacts / "flower-tasks.png")
    pages = {page: browser.text(page_url(running, page)) for page in ("tasks", "workers", "broker")}

    tasks = pages["tasks"]
    assert "ubuntu-24.04 from images:ubuntu.qcow2" in tasks
    assert "broken from images:broken.qcow2" in tasks
    assert "IMG.0057: The image file" in tasks
    assert re.search(r"ims.poll_import SUCCESS .* image [0-9a-f-]{36} [1-9]", tasks)
    assert "Retries" in tasks
    assert "ker1@sandbox Online" in pages["workers"]
    assert all(secrets)
    assert [secret for secret in secrets if secret in str(pages)] == []


def test_flower_requires_a_password(running: Running) -> None:
    flower = running.stack.flower
    assert flower is not None

    assert requests.get(f"{flower.url}/tasks", timeout=10).status_code == 401
    assert requests.get(f"{flower.url}/api/tasks", timeout=10).status_code == 401
    assert requests.get(page_url(running, "tasks"), timeout=10).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        "api/worker/shutdown/worker1@sandbox",
        "api/worker/pool/shrink/worker1@sandbox?n=1",
        "api/task/send-task/ims.import_image",
    ],
)
def test_flower_is_read_only_by_default(running: Running, call: str) -> None:
    flower = running.stack.flower
    assert flower is not None

    response = requests.post(
        f"{flower.url}/{call}", auth=flower.auth, json={"args": [a_body()]}, timeout=10
    )

    assert response.status_code in (401, 403, 404, 405)
    assert running.stack.app.control.ping(timeout=2)


def test_the_history_survives_a_restart_of_flower(running: Running) -> None:
    before = {import_id for import_id in task_ids_in_flower(running) if import_id}

    flower = running.stack.process("flower")
    flower.stop()
    flower.start()
    flower.wait_ready()

    until(lambda: before <= set(task_ids_in_flower(running)), "the old tasks are back")
    assert len(before) >= 4


def task_ids_in_flower(running: Running) -> list[str]:
    flower = running.stack.flower
    assert flower is not None
    response = requests.get(f"{flower.url}/api/tasks", auth=flower.auth, timeout=10)
    return [*response.json()]
