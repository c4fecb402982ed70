"""`ims-import submit`: from options and files to a recorded, queued import."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ims_producer.cli.exit_codes import Exit, stop

if TYPE_CHECKING:
    from rich.console import Console

    from ims_config.records import ImportResult
    from ims_producer.client import Client, Submission

# `bucket:key,min_disk=40`: a comma in a key stays one unless a field follows it.
_DATA_IMAGE_FIELD: Final = re.compile(r",(?=(?:min_disk|name|description|is_quick_import|tags)=)")


def submit(  # typer reads the options from the signature
    image_url: Annotated[
        str | None, typer.Argument(metavar="BUCKET:KEY", help="The image file in OBS.")
    ] = None,
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the image.")] = None,
    min_disk: Annotated[
        str | None, typer.Option(metavar="GB", help="Smallest disk of a server made from it.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="system (default), data, quick or iso.")
    ] = None,
    os_version: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='As IMS lists it, e.g. "Ubuntu 24.04 server 64bit".'),
    ] = None,
    os_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Linux, Windows or Other.")
    ] = None,
    cloud: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Entry of the worker's clouds.yaml; else its default."),
    ] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Up to 1024 characters.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Up to 9; may be repeated.")
    ] = None,
    image_type: Annotated[
        str | None,
        typer.Option(
            "--type", metavar="TYPE", help="ECS, FusionCompute, BMS, Ironic, IsoImage or DataImage."
        ),
    ] = None,
    architecture: Annotated[str | None, typer.Option(metavar="ARCH", help="x86 or arm.")] = None,
    firmware: Annotated[
        str | None,
        typer.Option("--hw-firmware-type", "--firmware", metavar="TYPE", help="bios or uefi."),
    ] = None,
    min_ram: Annotated[str | None, typer.Option(metavar="MB", help="Smallest memory.")] = None,
    max_ram: Annotated[str | None, typer.Option(metavar="MB", help="Largest memory.")] = None,
    is_config: Annotated[
        bool | None,
        typer.Option("--config/--no-config", help="Let IMS install drivers in the image."),
    ] = None,
    is_config_init: Annotated[
        bool | None, typer.Option("--config-init/--no-config-init", hidden=True)
    ] = None,
    is_quick_import: Annotated[
        bool | None,
        typer.Option("--quick/--no-quick", help="Import large files without conversion."),
    ] = None,
    cmk_id: Annotated[
        str | None, typer.Option(metavar="ID", help="KMS key that encrypts the image.")
    ] = None,
    enterprise_project_id: Annotated[
        str | None, typer.Option(metavar="ID", help="0 (the default project) or a UUID.")
    ] = None,
    data_image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUCKET:KEY,min_disk=GB[,name=…]",
            help="A data disk imported with the image; up to 3.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            allow_dash=True,
            metavar="FILE",
            help="A JSON or YAML object with these fields (- is stdin); options win over it.",
        ),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="low, normal (default) or high: who goes first."),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Told how the import stands; see: ims-import webhooks."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Idempotency key: the same key never makes a second import."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the import has ended, with progress.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="With --wait: stop waiting after so long."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the request and print it; record nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record instead of the id.")
    ] = False,
) -> None:
    """Record an import and queue it; prints its id.

    \b
    Examples:
      ims-import submit my-bucket:images/ubuntu.qcow2 --name ubuntu-24.04 --min-disk 40 \\
          --os-version "Ubuntu 24.04 server 64bit" --wait
      ims-import submit my-bucket:data.vmdk --kind data --name data --min-disk 100
      ims-import submit --file request.json --key build-4711 --json
    """
    options = {
        "image_url": image_url, "name": name, "min_disk": min_disk, "kind": kind,
        "os_version": os_version, "os_type": os_type, "cloud": cloud,
        "priority": priority, "webhook_url": webhook,
        "description": description, "tags": tag or None,
        "type": image_type, "architecture": architecture,
        "hw_firmware_type": firmware, "min_ram": min_ram, "max_ram": max_ram,
        "is_config": is_config, "is_config_init": is_config_init,
        "is_quick_import": is_quick_import, "cmk_id": cmk_id,
        "enterprise_project_id": enterprise_project_id,
        "data_images": [_data_image(text) for text in data_image] if data_image else None,
    }  # fmt: skip
    given = _read(file) | {name: value for name, value in options.items() if value is not None}

    from rich.console import Console

    from ims_config.import_request import parse_request

    request = parse_request(given)
    console = Console(stderr=True, highlight=False)
    for warning in request.warnings():
        _say(console, f"note: {warning}")
    if dry_run:
        print(json.dumps(request.as_message(), indent=2))
        return

    from ims_producer.client import Client

    with Client() as client:
        asked = client.submit_import(request, key=key)
        _say_asked(console, asked)
        if not as_json:
            print(asked.record.id, flush=True)
        if not wait:
            if as_json:
                print(asked.record.model_dump_json())
            return
        code = _wait(console, client, asked, timeout, as_json=as_json)
    raise SystemExit(int(code))


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    from ims_config.strict_yaml import InvalidYaml, parse_yaml

    try:
        given = parse_yaml(sys.stdin.read() if str(file) == "-" else file.read_text())
    except OSError as exc:
        stop(Exit.USAGE, f"--file {file}: {exc.strerror}")
    except (InvalidYaml, UnicodeDecodeError) as exc:
        stop(Exit.USAGE, f"--file {file}: must be a JSON or YAML object; {exc}")
    if not isinstance(given, dict):
        stop(
            Exit.USAGE,
            f"--file {file}: must be a JSON or YAML object; given: {type(given).__name__}",
        )
    return given


def _data_image(text: str) -> Mapping[str, Any]:
    """`BUCKET:KEY,min_disk=40,name=…,tags=a=b` as the request's field."""
    image_url, *fields = _DATA_IMAGE_FIELD.split(text)
    given: dict[str, Any] = {"image_url": image_url}
    for field in fields:
        name, _, value = field.partition("=")
        given[name] = value.split(",") if name == "tags" else value
    return given


def _say(console: "Console", text: str) -> None:
    from ims_producer.cli.render import say

    say(console, text)


def _say_asked(console: "Console", asked: "Submission") -> None:
    if not asked.created:
        _say(console, f"note: key {asked.record.key!r} was used before: this is its import")
    elif not asked.queued:
        _say(
            console,
            "note: recorded, but the queue cannot be reached; a worker will find it "
            "(ims-import doctor tells more)",
        )


def _wait(
    console: "Console",
    client: "Client",
    asked: "Submission",
    timeout: float | None,
    *,
    as_json: bool,
) -> Exit:
    from ims_producer.cli import render

    [result] = render.follow(
        console,
        client,
        [asked.record.id],
        timeout=timeout,
    )
    for line in render.outcome(result):
        _say(console, line)
    code = exit_of(result)
    if not result.state.terminal:
        _say(console, f"It is still tracked. Go on waiting: ims-import watch {result.id}")
    if as_json:
        print(result.model_dump_json())
    return code


def exit_of(result: "ImportResult") -> Exit:
    """The exit code of somebody who waited for this import and stopped waiting now."""
    from ims_config.records import State

    match result.state:
        case State.SUCCEEDED:
            return Exit.DONE
        case State.FAILED | State.CANCELED:
            return Exit.FAILED
        case State.UNCERTAIN if result.needs_a_person:
            return Exit.UNCERTAIN
        case _:
            return Exit.CREDENTIALS if result.credentials_refused else Exit.STILL_TRACKED
