"""The demo imports four image files; `up` keeps the same stack running."""

import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Final

from rich.console import Console

from ims_config.import_request import parse_request
from ims_config.records import ImportRecord, State
from ims_producer import Client
from ims_producer.cli import render
from ims_sandbox import bucket, diskimages
from ims_sandbox.cloud import CloudOptions
from ims_sandbox.folders import write_secret
from ims_sandbox.process import ProcessFailed
from ims_sandbox.stack import Stack, StackOptions

BUCKET: Final = "demo-images"
FOLDER: Final = "uploads"
JOB_SECONDS: Final = (4.0, 8.0)
GIVE_UP_AFTER_S: Final = 120


@dataclass(frozen=True, slots=True)
class Sample:
    """An image file of the demo, the requested image and the expected result."""

    write: Callable[[Path], Path]
    file: str
    name: str
    os_version: str
    code: str | None = None
    """The expected error code; None if the import must succeed."""


_UBUNTU: Final = "Ubuntu 24.04 server 64bit"
SAMPLES: Final = (
    Sample(diskimages.write_qcow2, "ubuntu-24.04.qcow2", "ubuntu-24.04", _UBUNTU),
    Sample(diskimages.write_raw, "debian-12.raw", "debian-12", "Debian GNU/Linux 12.0.0 64bit"),
    Sample(diskimages.write_vmdk, "appliance.vmdk", "appliance", "Other Linux(64 bit)"),
    Sample(diskimages.write_broken, "broken.qcow2", "broken", _UBUNTU, code="IMG.0057"),
)


def demo() -> int:
    """Import the samples and print each result; 0 if all are as expected."""
    console = Console(highlight=False)
    console.print(
        "[bold]ims-import demo[/] imports four image files into a simulation of "
        "Open Telekom Cloud.\n"
        "Everything runs on this machine and is removed afterwards.\n"
    )
    try:
        with _stack(console, workers=1) as stack:
            addresses = _put_samples(console, stack)
            with Client(stack.settings()) as client:
                ids = [client.submit(parse_request(body)) for body in _requests(addresses)]
                console.print("\nSubmitted. The worker now runs the imports:\n")
                with render.progress(console) as show:
                    records = client.wait_all(ids, timeout=GIVE_UP_AFTER_S, on_progress=show)
            # Print the result before the stack stops, which takes seconds.
            return _conclude(console, records)
    except ProcessFailed as exc:
        render.print_line(console, str(exc), style="red")
        return 1


def up(*, workers: int) -> int:
    """Run the stack until it is interrupted."""
    console = Console(highlight=False)
    try:
        with _stack(console, workers=workers, api=True) as stack:
            addresses = _put_samples(console, stack)
            _print_addresses(console, stack, addresses)
            try:
                _supervise(console, stack)
            except KeyboardInterrupt:
                console.print("\nStopping")
    except ProcessFailed as exc:
        render.print_line(console, str(exc), style="red")
        return 1
    except KeyboardInterrupt:
        # Interrupted during startup.
        pass
    console.print("Stopped; all files are removed.")
    return 0


@contextmanager
def _stack(console: Console, *, workers: int, api: bool = False) -> Iterator[Stack]:
    began = monotonic()
    cloud = CloudOptions(password=secrets.token_urlsafe(16), job_seconds=JOB_SECONDS)
    console.print("Starting")
    options = StackOptions(workers=workers, flower=True, api=api, s3=True, cloud=cloud)
    with Stack.running(options, lambda step: console.print(f"  · {step}")) as stack:
        console.print(f"  ready after {monotonic() - began:.1f} s\n")
        yield stack


def _put_samples(console: Console, stack: Stack) -> list[str]:
    if stack.s3_url is None:
        raise ValueError("the demo needs a bucket")
    folder = stack.folder / "files"
    folder.mkdir()
    files = [sample.write(folder / sample.file) for sample in SAMPLES]
    addresses = bucket.fill(stack.s3_url, stack.keys, bucket=BUCKET, files=files, folder=FOLDER)
    console.print("Image files in the bucket")
    for file, address in zip(files, addresses, strict=True):
        console.print(f"  · {address}  ({_size(file)})", soft_wrap=True)
    return addresses


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size} bytes" if size < diskimages.MIB // 1024 else f"{size // 1024} KiB"


def _requests(addresses: list[str]) -> Iterator[dict[str, object]]:
    for sample, address in zip(SAMPLES, addresses, strict=True):
        yield {
            "name": sample.name,
            "image_url": address,
            "os_version": sample.os_version,
            "min_disk": 40,
        }


# --- result ---------------------------------------------------------------------------------


def _conclude(console: Console, records: Sequence[ImportRecord]) -> int:
    console.print("\n[bold]Summary[/]")
    for record in records:
        for line in render.outcome(record):
            render.print_line(console, f"  {line}")
    unexpected = [
        sample.name
        for record, sample in zip(records, SAMPLES, strict=True)
        if not _as_expected(record, sample)
    ]
    if unexpected:
        console.print(f"\n[red]Not as expected: {', '.join(unexpected)}.[/]")
        return 1
    console.print(
        "\nAll as expected: three images, and the broken file failed with the cloud's reason.\n"
        "To explore the stack with Flower and the command line, run [bold]make up[/] "
        "(or [bold]ims-import sandbox up[/]).",
        soft_wrap=True,
    )
    return 0


def _as_expected(record: ImportRecord, sample: Sample) -> bool:
    code = record.error.code if record.error else None
    state = State.FAILED if sample.code else State.SUCCEEDED
    return (record.state, code) == (state, sample.code)


# --- up -------------------------------------------------------------------------------------


def _print_addresses(console: Console, stack: Stack, addresses: list[str]) -> None:
    env = _write_env(stack)
    flower, api = stack.flower, stack.api
    if flower is None or api is None:
        raise ValueError("up needs Flower and the API")
    user, password = flower.auth
    rows = [
        ("cloud (IAM, IMS)", f"{stack.cloud_url}/v3"),
        ("S3", f"{stack.s3_url}"),
        ("Redis (Valkey)", stack.redis_url),
        ("Flower", f"{flower.url}   user {user}   password {password}"),
        ("HTTP API", f"{api.url}/docs   key in $API_KEY"),
    ]
    console.print("\n[bold]The stack is running[/] on this machine only. Ctrl-C stops it.\n")
    for name, value in rows:
        console.print(f"  {name:<18}{value}", soft_wrap=True, markup=False)
    console.print("\nIn another shell:\n")
    submit = (
        f"ims-import submit {addresses[0]} --name ubuntu-24.04 "
        f"--os-version {shlex.quote(SAMPLES[0].os_version)} --min-disk 40 --wait"
    )
    body = f'{{"name": "ubuntu-24.04", "image_url": "{addresses[0]}", "min_disk": 40}}'
    post = f"""curl {api.url}/v1/imports -H "Authorization: Bearer $API_KEY" --json '{body}'"""
    for line in (f"source {shlex.quote(str(env))}", submit, "ims-import list", post):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print()


def _write_env(stack: Stack) -> Path:
    """A file that connects another shell to this stack."""
    settings = {
        name: value for name, value in stack.env.items() if name.startswith(("IMS_IMPORT_", "OS_"))
    }
    keys = {
        "AWS_ACCESS_KEY_ID": stack.keys.access_key,
        "AWS_SECRET_ACCESS_KEY": stack.keys.secret_key,
        "AWS_ENDPOINT_URL_S3": stack.s3_url or "",
    }
    if stack.api is not None:
        keys["API_KEY"] = stack.api.key
    lines = [f"export {name}={shlex.quote(value)}" for name, value in (settings | keys).items()]
    # The command line of this installation.
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    env = stack.folder / "env"
    write_secret(env, "\n".join(lines) + "\n")
    return env


def _supervise(console: Console, stack: Stack) -> None:
    """Run until interrupted; replace workers that die."""
    pause = Event()
    while True:
        pause.wait(1)
        failed = stack.failed_process()
        if failed is None:
            continue
        if failed not in stack.workers:
            raise ProcessFailed(f"{failed.name} ended. The end of its log:\n{failed.tail()}")
        console.print(f"{failed.name} ended; starting a replacement.")
        stack.stop(failed)
        stack.worker()
