"""`plan` and `apply`: compare a manifest with the ledger and the clouds, and import the rest."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ims_producer
from ims_producer.cli.exit_codes import Exit, exit_code_of, stop
from ims_producer.cli.options import ArrayAsJson, Timeout, read_text

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
        _print_items(items, _planned, as_json=as_json)
        if prune_plan:
            _print_dropped(client, manifest, requests)
    raise SystemExit(int(_exit_code(items)))


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
        if wait:
            items = _wait(client, items, timeout)
    _print_items(items, _applied, as_json=as_json)
    raise SystemExit(int(_exit_code(items)))


# --- reading and planning -------------------------------------------------------------------


def _read(file: Path) -> "tuple[Manifest, list[ImportRequest]]":
    from ims_producer.manifest.parsing import InvalidManifest, parse_manifest, requests_of

    try:
        manifest = parse_manifest(read_text(file, str(file)), filename=file.name)
        return manifest, requests_of(manifest)
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
        except (ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable) as exc:
            hint = " (use --offline to skip this)" if isinstance(exc, WorkerUnavailable) else ""
            place = cloud or "the default cloud"
            print(f"note: images of {place} are unknown: {exc}{hint}", file=sys.stderr)
    return images


# --- applying -------------------------------------------------------------------------------


def _submit(client: "Client", items: "Sequence[Item]") -> "Iterator[Item]":
    from rich.progress import track

    from ims_ledger import InvalidState
    from ims_producer.cli import render
    from ims_producer.manifest.planning import Step

    console = render.stderr()
    for item in track(
        items, "Submitting", console=console, transient=True, disable=not console.is_terminal
    ):
        record = item.record
        if item.key is not None:
            record = client.submit_import(item.request, key=item.key).record
        elif item.step is Step.AGAIN and record is not None:
            try:
                record = client.retry(record.id)
            except InvalidState as exc:
                # Another `apply` has already retried it.
                record = exc.current
        yield replace(item, record=record)


def _wait(client: "Client", items: "Sequence[Item]", timeout: float | None) -> "list[Item]":
    from ims_producer.cli import render

    ids = [item.import_id for item in items if item.import_id]
    with render.progress(render.stderr()) as show:
        results = client.wait_all(ids, timeout=timeout, on_progress=show)
    by_id: dict[str | None, ImportResult] = {result.id: result for result in results}
    return [replace(item, result=by_id.get(item.import_id)) for item in items]


def _exit_code(items: "Sequence[Item]") -> Exit:
    from ims_producer.manifest.planning import Step

    if any(item.step is Step.CONFLICT for item in items):
        return Exit.FAILED
    return exit_code_of(*(item.result for item in items if item.result))


# --- printing -------------------------------------------------------------------------------


def _print_items(
    items: "Sequence[Item]", fields_of: "Callable[[Item], dict[str, str | None]]", *, as_json: bool
) -> None:
    from ims_producer.cli import render
    from ims_producer.manifest.planning import Step

    if as_json:
        render.print_json([fields_of(item) for item in items])
    else:
        for item in items:
            outcome = render.outcome_text(item.result) if item.result else item.why
            place = item.request.name + _where(item.request.cloud)
            cells = (f"{item.step:<9}", place, item.import_id, outcome)
            print("  ".join(filter(None, cells)))
    counts = Counter(item.step for item in items)
    summary = ", ".join(f"{counts[step]} {step}" for step in Step if step in counts)
    results = Counter(item.result.state for item in items if item.result)
    ended = "".join(f", {count} {state}" for state, count in results.items())
    print(f"{len(items)} images: {summary}{ended and '; now' + ended[1:]}", file=sys.stderr)


def _planned(item: "Item") -> dict[str, str | None]:
    return {
        "name": item.request.name,
        "cloud": item.request.cloud,
        "step": item.step,
        "why": item.why or None,
        "import_id": item.import_id,
    }


def _applied(item: "Item") -> dict[str, str | None]:
    record = item.result or item.record
    return _planned(item) | {
        "state": record.state if record else None,
        "image_id": item.result.image_id if item.result else None,
    }


def _print_dropped(
    client: "Client", manifest: "Manifest", requests: "Sequence[ImportRequest]"
) -> None:
    from ims_producer.manifest.planning import dropped, key_prefix

    records = client.with_keys_from(key_prefix(manifest.name))
    for record in dropped(manifest.name, requests, records):
        print(
            f"dropped   {record.name}{_where(record.cloud)}  the manifest no longer lists image "
            f"{record.image_id} of import {record.id}; the image stays",
            file=sys.stderr,
        )


def _where(cloud: str | None) -> str:
    return f" ({cloud})" if cloud else ""
