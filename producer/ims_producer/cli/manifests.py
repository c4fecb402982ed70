"""`plan` and `apply`: compare a manifest with the ledger and the clouds, and import the rest."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ims_producer
from ims_producer.cli.exit_codes import Exit, exit_code_of, stop
from ims_producer.cli.options import ArrayAsJson, Timeout

if TYPE_CHECKING:
    from ims_config.import_request import ImportRequest
    from ims_config.records import ImportResult
    from ims_config.worker_reports import FoundImage
    from ims_producer.client import Client
    from ims_producer.manifest.parsing import Manifest
    from ims_producer.manifest.planning import Item

File = Annotated[
    Path,
    typer.Argument(allow_dash=True, metavar="FILE", help="Manifest in YAML or JSON; - is stdin."),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Compare with the ledger only, not with the clouds."),
]
PrunePlan = Annotated[
    bool,
    typer.Option("--prune-plan", help="Also list earlier images that FILE no longer lists."),
]


def plan(
    file: File,
    *,
    prune_plan: PrunePlan = False,
    offline: Offline = False,
    as_json: ArrayAsJson = False,
) -> None:
    """Show what `apply` would do; changes nothing.

    Prints one line per image: new, changed, again, unchanged or conflict. Exit code 1 if there is
    a conflict.

    \b
    Examples:
      ims-import plan images.yaml
      ims-import plan images.yaml --json | \\
        jq -r '.[] | select(.step == "new").name'
    """
    manifest, requests = _read(file)
    with ims_producer.Client() as client:
        items = _plan(client, manifest, requests, offline=offline)
        _print_items(items, None, as_json=as_json)
        if prune_plan:
            _print_dropped(client, manifest, requests)
    raise SystemExit(int(_exit_code(items, {})))


def apply(
    file: File,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all imports end and show progress.")
    ] = False,
    timeout: Timeout = None,
    prune_plan: PrunePlan = False,
    offline: Offline = False,
    as_json: ArrayAsJson = False,
) -> None:
    """Import the images of a manifest that do not exist yet.

    Safe to repeat, also after an interruption. Prints one line per image with its import id. Exit
    code 1 if an import failed or conflicts, 3 after the timeout.

    \b
    Examples:
      ims-import apply images.yaml
      ims-import apply images.yaml --wait --timeout 7200
      git show main:images.yaml | ims-import apply - --wait --json
    """
    manifest, requests = _read(file)
    with ims_producer.Client() as client:
        items = list(_submit(client, _plan(client, manifest, requests, offline=offline)))
        if prune_plan:
            _print_dropped(client, manifest, requests)
        results = _wait(client, items, timeout) if wait else {}
    _print_items(items, results, as_json=as_json)
    raise SystemExit(int(_exit_code(items, results)))


# --- reading and planning -------------------------------------------------------------------


def _read(file: Path) -> "tuple[Manifest, list[ImportRequest]]":
    from ims_producer.manifest.parsing import InvalidManifest, parse_manifest, requests_of

    try:
        manifest = parse_manifest(sys.stdin.read() if str(file) == "-" else file.read_text())
        return manifest, requests_of(manifest)
    except OSError as exc:
        stop(Exit.USAGE, f"{file}: {exc.strerror}")
    except UnicodeDecodeError:
        stop(Exit.USAGE, f"{file}: must be text in UTF-8")
    except InvalidManifest as exc:
        stop(Exit.USAGE, *(f"{file}: {problem}" for problem in exc.problems))


def _plan(
    client: "Client", manifest: "Manifest", requests: "Sequence[ImportRequest]", *, offline: bool
) -> "list[Item]":
    from ims_producer.manifest.planning import plan as plan_items

    records = client.named([request.name for request in requests])
    images = {} if offline else _images(client, requests)
    return plan_items(manifest.name, requests, records, images)


def _images(
    client: "Client", requests: "Sequence[ImportRequest]"
) -> "dict[str | None, Sequence[FoundImage]]":
    """The images of each cloud; leaves out a cloud that cannot be reached, with a note."""
    from ims_producer.errors import ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable

    images: dict[str | None, Sequence[FoundImage]] = {}
    for cloud in dict.fromkeys(request.cloud for request in requests):
        names = [request.name for request in requests if request.cloud == cloud]
        try:
            images[cloud] = client.find_images(cloud, names)
        except (ApiUnavailable, KeyRefused, WorkerRefused) as exc:
            reason = str(exc)
        except WorkerUnavailable as exc:
            reason = f"{exc} (use --offline to skip this)"
        else:
            continue
        name = cloud or "the default cloud"
        print(f"note: images of {name} are unknown: {reason}", file=sys.stderr)
    return images


# --- applying -------------------------------------------------------------------------------


def _submit(client: "Client", items: "Sequence[Item]") -> "Iterator[Item]":
    from dataclasses import replace

    from rich.progress import track

    from ims_ledger import InvalidState
    from ims_producer.cli import render

    console = render.stderr()
    for item in track(
        items, "Submitting", console=console, transient=True, disable=not console.is_terminal
    ):
        record = item.record
        if item.key is not None:
            record = client.submit_import(item.request, key=item.key).record
        elif item.to_do and record is not None:
            try:
                record = client.retry(record.id)
            except InvalidState as exc:
                # Another `apply` has already retried it.
                record = exc.current
        yield replace(item, record=record)


def _wait(
    client: "Client", items: "Sequence[Item]", timeout: float | None
) -> "dict[str, ImportResult]":
    from ims_producer.cli import render

    ids = [item.record.id for item in items if item.record]
    with render.progress(render.stderr()) as show:
        results = client.wait_all(ids, timeout=timeout, on_progress=show)
    return {result.id: result for result in results}


def _exit_code(items: "Sequence[Item]", results: "dict[str, ImportResult]") -> Exit:
    from ims_producer.manifest.planning import Step

    if any(item.step is Step.CONFLICT for item in items):
        return Exit.FAILED
    return exit_code_of(*results.values())


# --- printing -------------------------------------------------------------------------------


def _print_items(
    items: "Sequence[Item]", results: "dict[str, ImportResult] | None", *, as_json: bool
) -> None:
    from ims_producer.manifest.planning import Step

    if as_json:
        print(
            json.dumps(
                [
                    item.as_json() | ({} if results is None else _state(item, results))
                    for item in items
                ]
            )
        )
    else:
        for item in items:
            print(_line(item, results or {}))
    counts = [(step, sum(item.step is step for item in items)) for step in Step]
    summary = ", ".join(f"{count} {step}" for step, count in counts if count)
    print(f"{len(items)} images: {summary}", file=sys.stderr)


def _line(item: "Item", results: "dict[str, ImportResult]") -> str:
    request, record = item.request, item.record
    result = results.get(record.id) if record else None
    cells = [f"{item.step:<9}", request.name + _where(request.cloud)]
    if record is not None:
        cells.append(record.id)
    if result is not None:
        from ims_producer.cli import render

        cells.append(render.outcome_text(result))
    elif item.why:
        cells.append(item.why)
    return "  ".join(cells)


def _state(item: "Item", results: "dict[str, ImportResult]") -> dict[str, str | None]:
    record = item.record
    result = results.get(record.id) if record else None
    state = result.state if result else record.state if record else None
    return {"state": state, "image_id": result.image_id if result else None}


def _print_dropped(
    client: "Client", manifest: "Manifest", requests: "Sequence[ImportRequest]"
) -> None:
    from ims_producer.manifest.planning import KEY_PREFIX, dropped

    records = client.with_keys_from(f"{KEY_PREFIX}{manifest.name}/")
    for record in dropped(manifest.name, requests, records):
        print(
            f"dropped   {record.name}{_where(record.cloud)}  the manifest no longer lists image "
            f"{record.image_id} of import {record.id}; the image stays",
            file=sys.stderr,
        )


def _where(cloud: str | None) -> str:
    return f" ({cloud})" if cloud else ""
