"""The one-machine stack: real processes that are ready when they say so and gone when it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import until

from ims_sandbox.process import ProcessFailed
from ims_sandbox.stack import Stack, StackOptions


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stack_leaves_no_process_and_no_file() -> None:
    with Stack.running(StackOptions(flower=True, s3=True)) as stack:
        folder = stack.folder
        pids = [part.process.pid for part in stack.processes]
        assert all(alive(pid) for pid in pids)

    assert len(pids) == 5
    assert [pid for pid in pids if alive(pid)] == []
    assert not folder.exists()


def test_its_secrets_are_files_that_nobody_else_can_read_and_never_arguments() -> None:
    with Stack.running() as stack:
        settings = stack.settings()
        secrets = [
            settings.redis.partition("//:")[2].partition("@")[0],
            *settings.secret_keys,
            "sandbox-password",
        ]
        arguments = "\n".join(
            Path(f"/proc/{part.process.pid}/cmdline").read_text() for part in stack.processes
        )
        mode = stack.folder.stat().st_mode & 0o777

    assert all(secrets)
    assert [secret for secret in secrets if secret in arguments] == []
    assert mode == 0o700


def test_what_the_surroundings_say_about_other_clouds_does_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OS_CLOUD", "production")
    monkeypatch.setenv("IMS_IMPORT_REDIS_URL", "redis://production:6379/0")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")

    with Stack.running() as stack:
        assert stack.env["OS_CLOUD"] == "sandbox"
        assert "production" not in str(stack.env)
        assert "HTTPS_PROXY" not in stack.env


def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log() -> None:
    with (
        pytest.raises(ProcessFailed, match=r"(?s)worker1.*IMS_IMPORT_POLL_MAX_S|poll_max_s"),
        Stack.running(StackOptions(settings={"POLL_MAX_S": "-1"})),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_parts_die_with_a_killed_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from ims_sandbox.stack import Stack\n"
        "with Stack.running() as stack:\n"
        "    print(*[part.process.pid for part in stack.processes], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.send_signal(signal.SIGKILL)

    until(lambda: not any(alive(pid) for pid in pids), "all parts are gone")
    assert len(pids) == 3
