"""`show`, `list`, `watch`, `cancel`, `retry`, `resolve`, `adopt` and `prune`: recorded imports."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

import ims_producer
from ims_producer.cli.durations import parse_duration
from ims_producer.cli.exit_codes import Exit, exit_code_of, stop
from ims_producer.cli.options import ArrayAsJson, Cloud, ImportId, RecordAsJson, Timeout, choice

if TYPE_CHECKING:
    from ims_config.records import ImportRecord

MAX_WATCHED: Final = 200


def show(
    import_id: ImportId,
    *,
    events: Annotated[bool, typer.Option("--events", help="Also print the history.")] = False,
    as_json: RecordAsJson = False,
) -> None:
    """Show one import with its reason, image and what to do.

    \b
    Examples:
      ims-import show 6f2c8f0e-…
      ims-import show 6f2c8f0e-… --json | jq -r .image_id
      ims-import show 6f2c8f0e-… --events
    """
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        result = client.get(import_id)
        history = client.events(import_id) if events else []
    if as_json:
        shown = result.model_dump(mode="json")
        render.print_json(shown | {"events": history} if events else shown)
        return
    render.print_details(result)
    for event in history:
        render.print_line(render.stdout(), render.event_line(event))


def list_imports(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Only imports in this state; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only imports with this image name.")
    ] = None,
    cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only imports into this cloud.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of imports.")] = 50,
    as_json: ArrayAsJson = False,
) -> None:
    """List imports, newest first.

    \b
    Examples:
      ims-import list
      ims-import list --state RUNNING --state WAITING
      ims-import list --state FAILED --json | jq -r '.[].error.code'
    """
    from ims_config.records import State
    from ims_producer.cli import render

    states = [choice(State, text, "--state") for text in state or ()]
    with ims_producer.Client() as client:
        records = client.list(states=states, name=name, cloud=cloud, limit=limit)
    render.print_list(records, render.import_row, as_json=as_json, empty="No imports found.")


def watch(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids of imports; default: all open ones."),
    ] = None,
    *,
    timeout: Timeout = None,
    as_json: ArrayAsJson = False,
) -> None:
    """Watch imports until they end.

    Exit code 0 if all succeeded, 1 if one failed, 3 after the timeout.

    \b
    Examples:
      ims-import watch
      ims-import watch 6f2c8f0e-… --timeout 3600
    """
    from ims_config.records import State
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        if not ids:
            states = [state for state in State if not state.terminal]
            ids = [record.id for record in client.list(states=states, limit=MAX_WATCHED)]
        if not ids:
            render.print_note("No import is open.")
        with render.progress(render.stderr()) as show:
            results = client.wait_all(ids, timeout=timeout, on_progress=show)
    for result in results:
        render.print_outcome(result)
    if as_json:
        render.print_json(results)
    raise SystemExit(int(exit_code_of(*results)))


def cancel(
    import_id: ImportId,
    *,
    leave_image: Annotated[
        bool, typer.Option("--leave-image", help="Keep the image if the job creates one.")
    ] = False,
    as_json: RecordAsJson = False,
) -> None:
    """Cancel an import.

    An import that was not yet sent to IMS is canceled immediately. IMS cannot stop a job: after
    that, ims-import follows the job to its end and then deletes the image.

    \b
    Examples:
      ims-import cancel 6f2c8f0e-…
      ims-import cancel 6f2c8f0e-… --leave-image
    """
    with ims_producer.Client() as client:
        result = client.cancel(import_id, leave_image=leave_image)
    action = "kept" if leave_image else "deleted"
    _print_result(
        result,
        "canceled; no request was sent to IMS"
        if result.state.terminal
        else f"will be canceled when its job ends; the image is then {action}",
        as_json=as_json,
    )


def retry(import_id: ImportId, *, as_json: RecordAsJson = False) -> None:
    """Retry an import that FAILED or was CANCELED, under the same id.

    \b
    Example:
      ims-import retry 6f2c8f0e-… && ims-import watch 6f2c8f0e-…
    """
    with ims_producer.Client() as client:
        result = client.retry(import_id)
    _print_result(result, f"queued again, attempt {result.attempts + 1}", as_json=as_json)


def resolve(
    import_id: ImportId,
    *,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="There is no image: send the request again.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE_ID", help="This is the image of the import.")
    ] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Give up: the import is FAILED.")] = False,
    as_json: RecordAsJson = False,
) -> None:
    """Decide how an UNCERTAIN import continues.

    Look for its image in the IMS console first.

    \b
    Examples:
      ims-import resolve 6f2c8f0e-… --image 1b2c3d4e-…
      ims-import resolve 6f2c8f0e-… --resubmit
      ims-import resolve 6f2c8f0e-… --fail
    """
    if [resubmit, image is not None, fail].count(True) != 1:
        stop(Exit.USAGE, "resolve: use exactly one of --resubmit, --image IMAGE_ID and --fail")
    with ims_producer.Client() as client:
        result = client.resolve(import_id, resubmit=resubmit, image_id=image)
    _print_result(result, f"is now {result.state}", as_json=as_json)


def adopt(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of the IMS job.")],
    *,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the import in the ledger.")
    ] = "adopted",
    cloud: Cloud = None,
    as_json: RecordAsJson = False,
) -> None:
    """Track an IMS job started elsewhere; prints the import id.

    \b
    Example:
      ims-import adopt ff80808296b27d7e01 --name from-the-console
    """
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        record = client.adopt(job_id, name=name, cloud=cloud).record
    render.print_result(record, record.id, as_json=as_json)


def prune(
    *,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Such as 90d, 12h or 30min since the end.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the number.")] = False,
) -> None:
    """Delete finished imports from the ledger; open imports stay.

    \b
    Examples:
      ims-import prune --older-than 90d --dry-run
      ims-import prune --older-than 90d
    """
    with ims_producer.Client() as client:
        count = client.prune(
            older_than=parse_duration(older_than, "--older-than"), only_count=dry_run
        )
    print(f"imports {'that would be ' if dry_run else ''}deleted: {count}")


def _print_result(record: "ImportRecord", outcome: str, *, as_json: bool) -> None:
    from ims_producer.cli import render

    render.print_result(record, f"{record.name} ({record.id}): {outcome}", as_json=as_json)
