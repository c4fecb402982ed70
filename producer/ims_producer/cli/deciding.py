"""`cancel`, `retry`, `resolve`, `adopt`, `resume`, `gc` and `prune`: what a person decides."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ims_producer.cli.durations import age
from ims_producer.cli.exit_codes import Exit, stop

if TYPE_CHECKING:
    from ims_config.records import ImportRecord

ImportId = Annotated[str, typer.Argument(metavar="ID", help="Id of the import.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]


def cancel(
    import_id: ImportId,
    *,
    leave_image: Annotated[
        bool, typer.Option("--leave-image", help="Keep the image if one is made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel an import.

    Before IMS was asked, at once. After that IMS cannot be stopped: the job is followed, and its
    image is deleted when it is done.

    \b
    Examples:
      ims-import cancel 6f2c8f0e-…
      ims-import cancel 6f2c8f0e-… --leave-image
    """
    from ims_config.records import State
    from ims_producer.client import Client

    with Client() as client:
        result = client.cancel(import_id, leave_image=leave_image)
    done = result.state is State.CANCELED
    what = "kept" if leave_image else "deleted"
    _say(
        result,
        "canceled; IMS was not asked"
        if done
        else f"will be canceled: its job is followed to the end and the image then {what}",
        as_json=as_json,
    )


def retry(import_id: ImportId, *, as_json: AsJson = False) -> None:
    """Begin a new attempt of an import that FAILED or was CANCELED, under the same id.

    \b
    Example:
      ims-import retry 6f2c8f0e-… && ims-import watch 6f2c8f0e-…
    """
    from ims_producer.client import Client

    with Client() as client:
        result = client.retry(import_id)
    _say(result, f"queued again, attempt {result.attempts + 1}", as_json=as_json)


def resolve(
    import_id: ImportId,
    *,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="There is no image: ask IMS again.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE_ID", help="This is its image.")
    ] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Give it up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide about an UNCERTAIN import, after looking at the images in IMS's console.

    \b
    Examples:
      ims-import resolve 6f2c8f0e-… --image 1b2c3d4e-…
      ims-import resolve 6f2c8f0e-… --resubmit
      ims-import resolve 6f2c8f0e-… --fail
    """
    from ims_producer.client import Client

    if [resubmit, image is not None, fail].count(True) != 1:
        stop(Exit.USAGE, "resolve: give one of --resubmit, --image IMAGE_ID and --fail")
    with Client() as client:
        result = client.resolve(import_id, resubmit=resubmit, image_id=image)
    _say(result, f"is {result.state} now", as_json=as_json)


def adopt(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of the IMS job.")],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call it here.")] = "adopted",
    cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="Entry of the worker's clouds.yaml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow an IMS job that somebody else started; prints the import's id.

    \b
    Example:
      ims-import adopt ff80808296b27d7e01 --name from-the-console
    """
    from ims_producer.client import Client

    with Client() as client:
        asked = client.adopt(job_id, name=name, cloud=cloud)
    print(asked.record.model_dump_json() if as_json else asked.record.id)


def resume(
    *,
    cloud: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Entry of the worker's clouds.yaml; else its default."),
    ] = None,
) -> None:
    """Let workers try a cloud's credentials again, after they were corrected.

    \b
    Example:
      ims-import resume --cloud otc-prod
    """
    from ims_producer.client import Client

    with Client() as client, _a_worker_answers():
        number = client.resume(cloud)
    print(f"imports of {cloud or 'the default cloud'} that go on now: {number}")


def gc(
    *,
    cloud: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Entry of the worker's clouds.yaml; else its default."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what was found.")] = False,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="With --yes: also images that this ledger knows not."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list; the default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found.")] = False,
) -> None:
    """List images that carry our tag and that no import needs; with --yes, delete them.

    \b
    Examples:
      ims-import gc
      ims-import gc --cloud otc-prod --yes
    """
    from ims_producer.client import Client

    if dry_run and yes:
        stop(Exit.USAGE, "gc: --dry-run only lists and --yes deletes; give one of them")
    with Client() as client, _a_worker_answers():
        found = client.gc(cloud, delete=yes, unknown=unknown)
    if as_json:
        print(json.dumps(found))
        return
    deleted = set(found["deleted"])
    for leftover in found["leftovers"]:
        image_id = leftover["image_id"]
        done = "deleted" if image_id in deleted else found["not_deleted"].get(image_id, "kept")
        print(f"{image_id}  {leftover['name']} ({leftover['status']}): {leftover['why']}; {done}")
    for import_id in found["missing"]:
        print(f"import {import_id} SUCCEEDED, but its image is gone")
    count = len(found["leftovers"])
    print(f"images that no import needs: {count}, deleted: {len(deleted)}")
    if count and not yes:
        print("ims-import gc --yes deletes them", file=sys.stderr)


@contextmanager
def _a_worker_answers() -> Iterator[None]:
    """Only workers hold credentials: without one there is no answer."""
    from celery.exceptions import TimeoutError as NoAnswer
    from kombu.exceptions import OperationalError
    from redis import RedisError

    from ims_producer.client import WorkerRefused

    try:
        yield
    except WorkerRefused as exc:
        stop(Exit.FAILED, exc.problem, exc.hint)
    except NoAnswer:
        stop(Exit.UNREACHABLE, "no worker answered; run: ims-import doctor")
    except (OperationalError, RedisError, OSError) as exc:
        stop(Exit.UNREACHABLE, f"queue: {exc}", "run: ims-import doctor")


def prune(
    *,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Such as 90d, 12h, 30min; counted from the end.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
) -> None:
    """Forget imports that ended long ago; open ones are never touched.

    \b
    Examples:
      ims-import prune --older-than 90d --dry-run
      ims-import prune --older-than 90d
    """
    from ims_producer.client import Client

    with Client() as client:
        number = client.prune(older_than=age(older_than, "--older-than"), only_count=dry_run)
    print(f"imports {'that would be ' if dry_run else ''}forgotten: {number}")


def _say(record: "ImportRecord", what: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record.model_dump(mode="json")))
    else:
        print(f"{record.name} ({record.id}): {what}")
