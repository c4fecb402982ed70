"""`submit`: builds a request from options and a file, records it and queues it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

import ims_producer
from ims_producer.cli.exit_codes import Exit, exit_code_of, stop
from ims_producer.cli.options import Cloud, Timeout, read_text

if TYPE_CHECKING:
    from ims_config.records import ImportRecord, ImportResult
    from ims_producer.client import Client

# A comma separates fields only if a field name follows; object keys may contain commas.
_DATA_IMAGE_FIELD: Final = re.compile(r",(?=(?:min_disk|name|description|is_quick_import|tags)=)")


def submit(  # typer reads the options from the signature
    image_url: Annotated[
        str | None, typer.Argument(metavar="BUCKET:KEY", help="The image file in OBS.")
    ] = None,
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the image.")] = None,
    min_disk: Annotated[
        str | None, typer.Option(metavar="GB", help="Minimum disk size of a server.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="system (default), data, quick or iso.")
    ] = None,
    os_version: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='IMS name, e.g. "Ubuntu 24.04 server 64bit".'),
    ] = None,
    os_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Linux, Windows or Other.")
    ] = None,
    cloud: Cloud = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Up to 1024 characters.")
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="KEY=VALUE", help="Image tag; repeatable, up to 9."),
    ] = None,
    type: Annotated[  # noqa: A002  # the field has this name
        str | None,
        typer.Option(
            metavar="TYPE", help="ECS, FusionCompute, BMS, Ironic, IsoImage or DataImage."
        ),
    ] = None,
    architecture: Annotated[str | None, typer.Option(metavar="ARCH", help="x86 or arm.")] = None,
    hw_firmware_type: Annotated[
        str | None,
        typer.Option("--hw-firmware-type", "--firmware", metavar="TYPE", help="bios or uefi."),
    ] = None,
    min_ram: Annotated[str | None, typer.Option(metavar="MB", help="Minimum memory.")] = None,
    max_ram: Annotated[str | None, typer.Option(metavar="MB", help="Maximum memory.")] = None,
    is_config: Annotated[
        bool | None,
        typer.Option("--config/--no-config", help="Let IMS install drivers into the image."),
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
    data_images: Annotated[
        list[str] | None,
        typer.Option(
            "--data-image",
            metavar="BUCKET:KEY,min_disk=GB[,name=…]",
            help="Data disk to import with the image; repeatable, up to 3.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            allow_dash=True,
            metavar="FILE",
            help="JSON or YAML object with these fields (- is stdin); options override it.",
        ),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="low, normal (default) or high: order in the queue."),
    ] = None,
    webhook_url: Annotated[
        str | None,
        typer.Option(
            "--webhook", metavar="URL", help="Receives the events of this import (see webhooks)."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Idempotency key: the same key never creates a second import."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the import ends and show progress.")
    ] = False,
    timeout: Timeout = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and print the request; record nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record instead of the id.")
    ] = False,
) -> None:
    """Submit an import: record it, queue it and print its id.

    \b
    Examples:
      ims-import submit my-bucket:images/ubuntu.qcow2 --name ubuntu-24.04 \\
          --min-disk 40 --os-version "Ubuntu 24.04 server 64bit" --wait
      ims-import submit my-bucket:d.vmdk --kind data --name d --min-disk 100
      ims-import submit --file request.json --key build-4711 --json
    """
    arguments = locals()
    from ims_config.import_request import ImportRequest, parse_request, usual_names
    from ims_producer.cli import render

    # A parameter of this function that is named like a field of a request sets that field.
    options = {name: arguments[name] for name in ImportRequest.model_fields}
    fields = {name: value for name, value in options.items() if value not in (None, [])}
    if data_images:
        fields["data_images"] = [_data_image(text) for text in data_images]
    request = parse_request(usual_names(_fields_of(file)) | fields)
    for warning in request.warnings():
        render.print_note(f"note: {warning}")
    if dry_run:
        print(json.dumps(request.as_message(), indent=2))
        return
    with ims_producer.Client() as client:
        submission = client.submit_import(request, key=key)
        if not submission.created:
            render.print_note(f"note: key {key!r} was used before; this is its import")
        elif not submission.queued:
            render.print_note(
                "note: recorded, but the queue is unreachable; a worker will find the import "
                "(diagnose with: ims-import doctor)"
            )
        record: ImportRecord = submission.record
        if not as_json:
            print(record.id, flush=True)
        if wait:
            record = _wait(client, record.id, timeout)
    if as_json:
        render.print_json(record)
    if wait:
        raise SystemExit(int(exit_code_of(record)))


def _fields_of(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    from ims_config.strict_yaml import InvalidYaml, parse_yaml

    source = f"--file {file}"
    try:
        fields = parse_yaml(read_text(file, source), filename=file.name)
    except InvalidYaml as exc:
        stop(Exit.USAGE, f"{source}: must be a JSON or YAML object; {exc}")
    if not isinstance(fields, dict):
        given = type(fields).__name__
        stop(Exit.USAGE, f"{source}: must be a JSON or YAML object; given: {given}")
    return fields


def _data_image(text: str) -> Mapping[str, object]:
    """`BUCKET:KEY,min_disk=40,name=…,tags=a=b` as a field of the request."""
    image_url, *fields = _DATA_IMAGE_FIELD.split(text)
    data_image: dict[str, object] = {"image_url": image_url}
    for field in fields:
        name, _, value = field.partition("=")
        data_image[name] = value.split(",") if name == "tags" else value
    return data_image


def _wait(client: "Client", import_id: str, timeout: float | None) -> "ImportResult":
    from ims_producer.cli import render

    with render.progress(render.stderr()) as show:
        [result] = client.wait_all([import_id], timeout=timeout, on_progress=show)
    render.print_outcome(result)
    if not result.state.terminal:
        render.print_note(
            f"The import is still tracked. Keep waiting: ims-import watch {import_id}"
        )
    return result
