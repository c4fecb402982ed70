"""`plan` and `apply`: a manifest of images, compared with what is there, and imported."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ims_producer.cli.exit_codes import Exit, stop

if TYPE_CHECKING:
    from rich.console import Console

    from ims_config.import_request import ImportRequest
    from ims_config.records import ImportResult
    from ims_producer.client import Client
    from ims_producer.manifests import Manifest
    from ims_producer.planning import Found, Item

File = Annotated[
    Path,
    typer.Argument(allow_dash=True, metavar="FILE", help="A manifest, YAML or JSON; - is stdin."),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Compare with the ledger alone; ask no worker for images."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print an array of items.")]


def plan(
    file: File,
    *,
    prune_plan: Annotated[
        bool,
        typer.Option("--prune-plan", help="Also images of before that FILE holds no more."),
    ] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Say what `apply` would do with a manifest; nothing is done.

    Each line is one image: new, changed, again, unchanged or conflict. Exit code 1 if there is a
    conflict.

    \b
    Examples:
      ims-import plan images.yaml
      ims-import plan images.yaml --json | jq -r '.[] | select(.step == "new").name'
    """
    from ims_producer.client import Client

    manifest, requests = _read(file)
    with Client() as client:
        items = _planned(client, manifest, requests, offline=offline)
        if as_json:
            print(json.dumps([item.as_json() for item in items]))
        else:
            _print(_line(item) for item in items)
        if prune_plan:
            _tell_dropped(client, manifest, requests)
    _summary(items)
    raise SystemExit(int(Exit.FAILED if _conflicts(items) else Exit.DONE))


def apply(
    file: File,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until all have ended, with progress.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="With --wait: stop waiting after so long."),
    ] = None,
    prune_plan: Annotated[
        bool,
        typer.Option("--prune-plan", help="Also name images of before that FILE holds no more."),
    ] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Import what a manifest asks for and is not there yet; safe to run again, after anything.

    Prints a line for each image, at the end with its import's id. Exit code 1 if one failed or
    conflicts, 3 if the time was up before.

    \b
    Examples:
      ims-import apply images.yaml
      ims-import apply images.yaml --wait --timeout 7200
      git show main:images.yaml | ims-import apply - --wait --json
    """
    from rich.console import Console

    from ims_producer.client import Client

    manifest, requests = _read(file)
    console = Console(stderr=True, highlight=False)
    with Client() as client:
        items = _planned(client, manifest, requests, offline=offline)
        done = list(_applied(console, client, items))
        if prune_plan:
            _tell_dropped(client, manifest, requests)
        results = _followed(console, client, done, timeout) if wait else {}
    if as_json:
        print(json.dumps([_as_json(item, results) for item in done]))
    else:
        _print(_line(item, results) for item in done)
    _summary(items)
    raise SystemExit(int(_code(done, results)))


# --- reading --------------------------------------------------------------------------------


def _read(file: Path) -> "tuple[Manifest, list[ImportRequest]]":
    from ims_producer.manifests import InvalidManifest, parse_manifest, requests_of

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        manifest = parse_manifest(text)
        return manifest, requests_of(manifest)
    except OSError as exc:
        stop(Exit.USAGE, f"{file}: {exc.strerror}")
    except UnicodeDecodeError:
        stop(Exit.USAGE, f"{file}: must be text in UTF-8")
    except InvalidManifest as exc:
        stop(Exit.USAGE, *(f"{file}: {problem}" for problem in exc.problems))


def _planned(
    client: "Client", manifest: "Manifest", requests: "Sequence[ImportRequest]", *, offline: bool
) -> "list[Item]":
    from ims_producer.planning import plan as decide

    records = client.named([request.name for request in requests])
    images = {} if offline else _images(client, requests)
    return decide(manifest.name, requests, records, images)


def _images(
    client: "Client", requests: "Sequence[ImportRequest]"
) -> "dict[str | None, list[Found]]":
    """What is in the clouds; a cloud that cannot be asked is said and left out."""
    from celery.exceptions import TimeoutError as NoAnswer
    from kombu.exceptions import OperationalError
    from redis import RedisError

    from ims_producer.client import WorkerRefused
    from ims_producer.errors import ApiUnavailable, KeyRefused
    from ims_producer.planning import Found

    images = {}
    for cloud in dict.fromkeys(request.cloud for request in requests):
        names = [request.name for request in requests if request.cloud == cloud]
        try:
            images[cloud] = [Found(**image) for image in client.find_images(cloud, names)]
        except WorkerRefused as exc:
            why = exc.problem
        except (ApiUnavailable, KeyRefused) as exc:
            why = str(exc)
        except (NoAnswer, OperationalError, RedisError, OSError):
            why = "no worker answered (--offline asks none)"
        else:
            continue
        print(f"note: {cloud or 'the default cloud'} was not asked: {why}", file=sys.stderr)
    return images


# --- applying -------------------------------------------------------------------------------


def _applied(console: "Console", client: "Client", items: "Sequence[Item]") -> "Iterator[Item]":
    from dataclasses import replace

    from rich.progress import track

    from ims_ledger import InvalidState

    shown = track(
        items, "Recording", console=console, transient=True, disable=not console.is_terminal
    )
    for item in shown:
        record = item.record
        if item.key is not None:
            record = client.submit_import(item.request, key=item.key).record
        elif item.to_do and record is not None:
            try:
                record = client.retry(record.id)
            except InvalidState as exc:
                # Another `apply` was quicker.
                record = exc.current
        yield replace(item, record=record)


def _followed(
    console: "Console", client: "Client", items: "Sequence[Item]", timeout: float | None
) -> "dict[str, ImportResult]":
    from ims_producer.cli import render

    ids = [item.record.id for item in items if item.record]
    if not ids:
        return {}
    results = render.follow(console, client, ids, timeout=timeout)
    return {result.id: result for result in results}


def _code(items: "Sequence[Item]", results: "dict[str, ImportResult]") -> Exit:
    from ims_producer.cli.reading import worst

    if _conflicts(items):
        return Exit.FAILED
    return worst(list(results.values()))


# --- saying ---------------------------------------------------------------------------------


def _print(lines: "Iterator[str]") -> None:
    for line in lines:
        print(line)


def _line(item: "Item", results: "dict[str, ImportResult] | None" = None) -> str:
    request, record = item.request, item.record
    result = results.get(record.id) if results and record else None
    where = f" ({request.cloud})" if request.cloud else ""
    cells = [f"{item.step:<9}", f"{request.name}{where}"]
    if record is not None:
        cells.append(record.id)
    if result is not None:
        from ims_producer.cli import render

        cells.append(next(iter(render.outcome(result))).partition(": ")[2])
    elif item.why:
        cells.append(item.why)
    return "  ".join(cells)


def _as_json(item: "Item", results: "dict[str, ImportResult]") -> dict[str, object]:
    result = results.get(item.record.id) if item.record else None
    state = result.state if result else item.record.state if item.record else None
    ended = {"state": state, "image_id": result.image_id if result else None}
    return item.as_json() | ended


def _summary(items: "Sequence[Item]") -> None:
    from ims_producer.planning import Step

    counts = [(step, sum(item.step is step for item in items)) for step in Step]
    said = ", ".join(f"{count} {step}" for step, count in counts if count)
    print(f"{len(items)} images: {said}", file=sys.stderr)


def _tell_dropped(
    client: "Client", manifest: "Manifest", requests: "Sequence[ImportRequest]"
) -> None:
    from ims_producer.planning import KEY_PREFIX, dropped

    records = client.with_keys_from(f"{KEY_PREFIX}{manifest.name}/")
    for record in dropped(manifest.name, requests, records):
        where = f" ({record.cloud})" if record.cloud else ""
        print(
            f"dropped   {record.name}{where}  image {record.image_id} of import {record.id} is in "
            "the manifest no more; it is left as it is",
            file=sys.stderr,
        )


def _conflicts(items: "Sequence[Item]") -> bool:
    from ims_producer.planning import Step

    return any(item.step is Step.CONFLICT for item in items)
