"""Runs the recipes of docs/how-to as written, except for the installation."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_body
from running import Running, until

from ims_sandbox import bucket
from ims_sandbox.process import free_port, listens

AIRFLOW = "IMS_IMPORT_TEST_AIRFLOW"
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str, language: str) -> list[str]:
    text = (HOW_TO / page).read_text()
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


@pytest.fixture
def runner(running: Running, tmp_path: Path) -> dict[str, str]:
    """The environment of a CI runner: API address, API key, and the program installed."""
    api = running.stack.api
    assert api is not None
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "IMS_IMPORT_API_URL": api.url,
        "IMS_IMPORT_API_KEY": api.key,
    }


def run(steps: list[str], env: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    script = "\n".join(step for step in steps if not step.startswith("pip install"))
    return subprocess.run(
        ["sh", "-ec", script],
        env=env, cwd=folder, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def test_the_gitlab_job_creates_one_image_however_often_it_runs(
    running: Running, runner: dict[str, str], tmp_path: Path
) -> None:
    [job] = [yaml.safe_load(block) for block in blocks("ci-pipelines.md", "yaml")[:1]]
    job = job["import-image"]
    variables = {
        "IMAGE_NAME": "from-gitlab",
        "IMAGE_FILE": "images:good.qcow2",
        "CI_PIPELINE_ID": "7",
    }
    assert set(job["variables"]) <= set(variables)

    first = run(job["script"], runner | variables, tmp_path)
    again = run(job["script"], runner | variables, tmp_path)

    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert re.fullmatch(r"image [0-9a-f-]{36}\n", first.stdout)
    assert json.loads((tmp_path / "image.json").read_text())["state"] == "SUCCEEDED"
    assert len(running.client.list(name="from-gitlab")) == 1


def test_the_github_workflow_applies_a_manifest(
    running: Running, runner: dict[str, str], tmp_path: Path
) -> None:
    workflow = yaml.safe_load(blocks("ci-pipelines.md", "yaml")[1])
    [job] = workflow["jobs"].values()
    image = {"name": "from-github", "image_url": "images:good.qcow2", "min_disk": 40}
    (tmp_path / "images.yaml").write_text(yaml.safe_dump({"version": 1, "images": [image]}))
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert set(job["env"]) == {"IMS_IMPORT_API_URL", "IMS_IMPORT_API_KEY"}

    process = run(steps, runner, tmp_path)

    assert process.returncode == 0, process.stderr
    [record] = running.client.list(name="from-github")
    assert record.state == "SUCCEEDED"


def python(code: str, env: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env, cwd=folder, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.fixture
def airflow(runner: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Airflow's command with an empty home and the operator as a DAG; returns its output."""
    program = os.environ.get(AIRFLOW)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(f"{AIRFLOW} is not set, and CI must not skip tests")
        pytest.skip(f"{AIRFLOW} names no Airflow with this package installed beside it")
    [operator, *_] = blocks("airflow-and-celery.md", "python")
    # Imports of the sandbox take seconds, not minutes.
    quick = operator.replace("poll_every=timedelta(seconds=30)", "poll_every=timedelta(seconds=1)")
    assert quick != operator
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "golden_image.py").write_text(quick)
    env = runner | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }

    def call(*argv: str) -> str:
        process = subprocess.run(
            [program, *argv],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        return process.stdout + process.stderr

    call("db", "migrate")
    call("dags", "reserialize")
    return call


def test_the_airflow_operator_returns_the_image_or_the_reason(
    airflow: Callable[..., str], running: Running
) -> None:
    earlier = {record.id for record in running.client.list(name="ubuntu-24.04", limit=200)}
    good = airflow("dags", "test", "golden_image", "-c", '{"image_url": "images:good.qcow2"}')
    bad = airflow("dags", "test", "golden_image", "-c", '{"image_url": "images:broken.qcow2"}')

    ended = {
        record.image_url: record
        for record in running.client.list(name="ubuntu-24.04", limit=200)
        if record.id not in earlier
    }
    assert {url: str(record.state) for url, record in ended.items()} == {
        "images:good.qcow2": "SUCCEEDED", "images:broken.qcow2": "FAILED"
    }  # fmt: skip
    assert "Pausing task as DEFERRED" in good
    assert "state=success" in good
    assert "AirflowFailException" in bad
    assert (ended["images:broken.qcow2"].reason or "no reason") in bad


def test_the_waiting_function_returns_the_image_or_the_reason(
    runner: dict[str, str], tmp_path: Path
) -> None:
    [_, function, _] = blocks("airflow-and-celery.md", "python")
    call = "\nprint(import_image('run-1', 'from-cron', 'images:{}.qcow2'))"
    good = python(function + call.format("good"), runner, tmp_path)
    again = python(function + call.format("good"), runner, tmp_path)
    bad = python(function + call.replace("run-1", "run-2").format("broken"), runner, tmp_path)

    assert good.returncode == 0, good.stderr
    assert again.stdout == good.stdout
    assert "RuntimeError: IMG.0057" in bad.stderr


def test_a_task_of_another_application_runs_after_the_import(
    running: Running, tmp_path: Path
) -> None:
    [*_, app] = blocks("airflow-and-celery.md", "python")
    (tmp_path / "mine.py").write_text(app)
    env: dict[str, Any] = os.environ | {"IMS_IMPORT_REDIS_URL": running.redis_url}
    argv = ["-m", "celery", "-A", "mine", "worker", "-P", "solo", "-l", "INFO"]
    log = tmp_path / "worker.log"
    code = "print(mine.import_then_roll_out('theirs', 'images:good.qcow2').get(timeout=60))"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, *argv], env=env, cwd=tmp_path, stdout=output, stderr=output
        ) as worker,
    ):
        try:
            until(lambda: " ready." in log.read_text(), "their worker is ready", seconds=60)
            process = python(f"import mine; {code}", env, tmp_path)
        finally:
            worker.terminate()

    assert re.fullmatch(r"rolling out [0-9a-f-]{36}\n", process.stdout), process.stderr


def test_the_receiver_of_the_webhooks_page_receives_the_image_id(
    running: Running, tmp_path: Path
) -> None:
    [program] = blocks("../webhooks.md", "python")
    port, log = free_port(), tmp_path / "receiver.log"
    url = f"http://127.0.0.1:{port}/hook"
    secret = running.stack.run("webhooks", "secret", url).stdout.strip()
    variables = {"WEBHOOK_SECRET": secret, "PORT": str(port)}
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | variables, stdout=file, stderr=subprocess.DEVNULL,
        ) as process,
    ):  # fmt: skip
        until(lambda: listens(port), "the receiver listens")
        import_id = running.client.submit(a_body(name="notified", webhook_url=url))
        until(lambda: "import.succeeded notified" in log.read_text(), "the message arrived")
        process.terminate()

    image_id = running.client.get(import_id).image_id
    assert log.read_text().splitlines()[-1] == f"import.succeeded notified {image_id}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_rules_and_the_event_of_the_watch_page_import_an_object(
    tmp_path: Path,
) -> None:
    rules, _ = blocks("../watch.md", "yaml")
    [event] = blocks("../watch.md", "sh")
    file = tmp_path / "watch.yaml"
    file.write_text(rules)
    with Running.start(settings={"WATCH_FILE": str(file)}, api=True) as running:
        stack, api = running.stack, running.stack.api
        assert api is not None
        good = [stack.folder / "ubuntu.qcow2"]
        bucket.fill(stack.s3_url or "", stack.keys, bucket="my-bucket", files=good, folder="images")
        stack.s3().put_object(Bucket="my-bucket", Key="images/ubuntu.qcow2.ready", Body=b"")

        sent = run([event], {"API": api.url, "KEY": api.key, "PATH": os.environ["PATH"]}, tmp_path)

        until(lambda: bool(running.client.list()), "it was imported")
        [record] = running.client.list()
        assert running.client.wait(record.id, timeout=30).state == "SUCCEEDED"
    assert json.loads(sent.stdout) == {"objects": 1, "confirmed": False}
    assert re.fullmatch(r"ubuntu-\d{8}-[0-9a-f]{8}", record.name)
