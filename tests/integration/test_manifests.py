"""Manifests on a running stack: planned, applied, interrupted and applied again."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from builders import a_body
from running import QUICK, Running, until

MANY = 1000


def manifest_file(folder: Path, *images: dict[str, Any], **manifest: Any) -> str:
    file = folder / "images.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "images": list(images)} | manifest))
    return str(file)


def steps(running: Running, *argv: str, expected: int = 0) -> dict[str, str]:
    done = running.stack.run(*argv, "--json")
    assert done.returncode == expected, done.stderr
    return {item["name"]: item["step"] for item in json.loads(done.stdout)}


def test_apply_imports_missing_images_and_then_nothing(running: Running, tmp_path: Path) -> None:
    file = manifest_file(tmp_path, a_body(name="one"), a_body(name="two"), name="first")

    assert steps(running, "plan", file) == {"one": "new", "two": "new"}
    done = running.stack.run("apply", file, "--wait")
    creates = running.cloud_state()["creates"]
    again = running.stack.run("apply", file, "--wait")

    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["new", "new"]
    assert done.stdout.count("SUCCEEDED, image ") == 2
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["unchanged"] * 2
    assert running.cloud_state()["creates"] == creates
    assert again.returncode == 0


def test_a_failure_exits_with_1_and_is_retried_by_the_next_apply(
    running: Running, tmp_path: Path
) -> None:
    file = manifest_file(tmp_path, a_body(name="bad", image_url="images:broken.qcow2"))

    done = running.stack.run("apply", file, "--wait")
    again = steps(running, "plan", file)
    retried = running.stack.run("apply", file, "--wait", "--json")

    assert done.returncode == 1
    assert "IMG.0057" in done.stdout
    assert again == {"bad": "again"}
    [item] = json.loads(retried.stdout)
    assert running.client.get(item["import_id"]).attempts == 2


def test_changed_deleted_and_conflicting_images(running: Running, tmp_path: Path) -> None:
    before = [a_body(name=name) for name in ("changed", "gone")]
    assert running.stack.run("apply", manifest_file(tmp_path, *before), "--wait").returncode == 0
    [gone] = running.client.list(name="gone")
    request_as_console(running, "DELETE", f"/v2/images/{gone.image_id}")
    foreign = {"name": "foreign", "image_url": "images:good.qcow2", "min_disk": 40}
    request_as_console(running, "POST", "/v2/cloudimages/action", json=foreign)
    until(lambda: is_there(running, "foreign"), "the foreign image exists")
    file = manifest_file(
        tmp_path,
        a_body(name="changed", min_disk=50),
        a_body(name="gone"),
        a_body(name="foreign"),
    )

    planned = steps(running, "plan", file, expected=1)
    applied = steps(running, "apply", file, "--wait", expected=1)

    assert planned == applied == {"changed": "changed", "gone": "again", "foreign": "conflict"}
    assert running.client.list(name="foreign") == []
    assert len(running.client.list(name="gone")) == 2


def request_as_console(running: Running, method: str, path: str, **options: Any) -> None:
    scope = {"project": {"name": QUICK.project, "domain": {"name": QUICK.domain}}}
    user = {"name": QUICK.user, "password": QUICK.password, "domain": {"name": QUICK.domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    url = running.stack.cloud_url
    login = requests.post(
        f"{url}/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}, timeout=10
    )
    token = {"X-Auth-Token": login.headers["X-Subject-Token"]}
    requests.request(method, url + path, headers=token, timeout=10, **options).raise_for_status()


def is_there(running: Running, name: str) -> bool:
    return any(
        (image["name"], image["status"]) == (name, "active")
        for image in running.cloud_state()["images"]
    )


def test_prune_plan_lists_images_that_the_manifest_no_longer_lists_and_keeps_them(
    running: Running, tmp_path: Path
) -> None:
    both = [a_body(name="kept"), a_body(name="left-out")]
    assert (
        running.stack.run("apply", manifest_file(tmp_path, *both, name="p"), "--wait").returncode
        == 0
    )

    done = running.stack.run("plan", manifest_file(tmp_path, both[0], name="p"), "--prune-plan")

    assert done.returncode == 0
    assert "dropped   left-out" in done.stderr
    assert "kept" not in done.stderr
    assert is_there(running, "left-out")


def test_plan_uses_only_the_ledger_for_a_cloud_that_no_worker_can_reach(
    running: Running, tmp_path: Path
) -> None:
    file = manifest_file(tmp_path, a_body(name="elsewhere", cloud="nosuch"))

    done = running.stack.run("plan", file)

    assert done.returncode == 0
    assert done.stdout.split() == ["new", "elsewhere", "(nosuch)"]
    assert "note: images of nosuch are unknown: CLOUD.unknown" in done.stderr


def test_apply_records_nothing_if_the_manifest_breaks_a_rule(
    running: Running, tmp_path: Path
) -> None:
    file = manifest_file(tmp_path, a_body(name="fine"), a_body(name="wrong", min_disk=0))

    done = running.stack.run("apply", file)

    assert done.returncode == 2
    assert f"{file}: images[1] 'wrong': min_disk: must be 1 to 1024 GB" in done.stderr
    assert running.client.list(name="fine") == []


@pytest.mark.timeout(180)
def test_an_interrupted_apply_of_1000_images_continues_without_duplicates(
    tmp_path: Path,
) -> None:
    with Running.start(workers=0) as running:
        file = manifest_file(tmp_path, *(a_body(name=f"image-{n}") for n in range(MANY)))
        argv = [sys.executable, "-m", "ims_producer", "apply", file, "--offline"]
        with subprocess.Popen(
            argv, env=running.stack.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as first:
            until(
                lambda: recorded(running) > MANY // 5,
                "a fifth of the imports is recorded",
                seconds=60,
            )
            first.send_signal(signal.SIGKILL)
        interrupted = recorded(running)

        done = steps(running, "apply", file, "--offline")

        assert 0 < interrupted < MANY
        assert recorded(running) == MANY
        counts = [list(done.values()).count(step) for step in ("unchanged", "new")]
        assert counts == [interrupted, MANY - interrupted]


def recorded(running: Running) -> int:
    return sum(running.ledger.imports.counts().values())
