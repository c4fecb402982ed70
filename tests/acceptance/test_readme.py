"""Runs the README's commands and programs as written.

The tests replace only what a reader would replace: the address of Redis, the cloud behind the
entry `otc` (by the sandbox), and the folder of clouds.yaml.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from running import until

from ims_sandbox import bucket, diskimages
from ims_sandbox.process import free_port
from ims_sandbox.stack import Stack, StackOptions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REDIS = "redis://127.0.0.1:6379/0"


def blocks(language: str) -> list[str]:
    indented = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```", README)
    return [re.sub(rf"(?m)^{indent}", "", text) for indent, text in indented]


def shell(containing: str) -> str:
    [script] = [block for block in blocks("sh") if containing in block]
    return script


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A cloud, a Redis and a bucket; the README starts the worker."""
    with Stack.running(StackOptions(workers=0, s3=True)) as stack:
        file = diskimages.write_qcow2(stack.folder / "ubuntu-24.04.qcow2")
        bucket.fill(
            stack.s3_url or "", stack.keys, bucket="my-bucket", files=[file], folder="images"
        )
        yield stack


@pytest.fixture(scope="module")
def env(stack: Stack, home: Path) -> dict[str, str]:
    config = home / ".config" / "openstack"
    config.mkdir(parents=True)
    clouds = yaml.safe_load(Path(stack.env["OS_CLIENT_CONFIG_FILE"]).read_text())
    (config / "clouds.yaml").write_text(
        yaml.safe_dump({"clouds": {"otc": clouds["clouds"]["sandbox"]}})
    )
    bare = {name: value for name, value in stack.env.items() if not name.startswith("OS_")}
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    quick = {"IMS_IMPORT_POLL_FIRST_S": "1", "HOME": str(home), "PATH": programs}
    inherited = {name: value for name, value in bare.items() if not name.startswith("IMS_IMPORT_")}
    return inherited | quick


def run(script: str, stack: Stack, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-ec", script.replace(REDIS, stack.redis_url)],
        env=env, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def worker(stack: Stack, env: dict[str, str], home: Path) -> Iterator[None]:
    log = home / "worker.log"
    script = shell("ims-import worker").replace("ims-import worker", "exec ims-import worker")
    with (
        log.open("w") as file,
        subprocess.Popen(
            ["bash", "-ec", script.replace(REDIS, stack.redis_url)],
            env=env, stdout=file, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        until(lambda: " ready." in log.read_text(), "the worker is ready", seconds=60)
        yield
        process.terminate()


@pytest.mark.usefixtures("worker")
def test_the_quick_start_creates_an_image(stack: Stack, env: dict[str, str]) -> None:
    process = run(shell("ims-import doctor"), stack, env)

    assert process.returncode == 0, process.stdout + process.stderr
    assert "FAIL" not in process.stdout
    assert re.search(r"ubuntu-24.04: SUCCEEDED, image [0-9a-f-]{36}", process.stderr)
    assert "SUCCEEDED" in process.stdout


@pytest.mark.usefixtures("worker")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_http_commands_start_an_import_and_follow_it(stack: Stack, env: dict[str, str]) -> None:
    port = free_port()
    script = shell("ims-import api").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    script += "\nkill %1 && wait %1 || true"

    process = run(script, stack, env | {
        "IMS_IMPORT_REDIS_URL": stack.redis_url, "UVICORN_PORT": str(port)
    })  # fmt: skip

    assert process.returncode == 0, process.stdout + process.stderr
    assert '"ledger":"ok"' in process.stdout
    assert "event: transition" in process.stdout
    assert '"to_state":"SUCCEEDED"' in process.stdout


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("program", blocks("python"), ids=["celery", "client"])
def test_the_programs_print_the_id_of_an_image(
    stack: Stack, env: dict[str, str], program: str
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=env | {"IMS_IMPORT_REDIS_URL": stack.redis_url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert re.fullmatch(r"[0-9a-f-]{36}\n", process.stdout), process.stderr


@pytest.mark.filterwarnings("ignore:Support for InfluxDB")
def test_openstacksdk_reads_the_clouds_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openstack.config import OpenStackConfig  # noqa: PLC0415  # slow to import

    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "clouds.yaml"
    [text] = blocks("yaml")
    file.write_text(text)

    auth = OpenStackConfig(config_files=[str(file)]).get_one("otc").config["auth"]

    assert auth["auth_url"] == "https://iam.eu-de.otc.t-systems.com/v3"


def test_the_readme_names_existing_make_targets() -> None:
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"(?<![\w-])make (\w+)", "".join(blocks("sh")))) | set(
        re.findall(r"`make (\w+)`", README)
    )

    assert {"demo", "test", "up"} == named
    assert named <= targets


def test_every_link_resolves() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
