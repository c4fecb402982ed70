"""`resume` and `gc`: operations on a cloud that a worker executes, because only workers hold
credentials.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import ims_producer
from ims_producer.cli.exit_codes import Exit, stop
from ims_producer.cli.options import Cloud

if TYPE_CHECKING:
    from ims_config.worker_reports import GcReport


def resume(*, cloud: Cloud = None) -> None:
    """Retry the credentials of a cloud after you corrected them.

    Runs at once what they held up: waiting imports, and those whose polls fail.

    \b
    Example:
      ims-import resume --cloud otc-prod
    """
    with ims_producer.Client() as client:
        report = client.resume(cloud)
    states = ", ".join(f"{count} {state}" for state, count in report.states.items())
    total = f"{report.waited} ({states})" if states else "0"
    print(f"imports resumed for {cloud or 'the default cloud'}: {total}")


def gc(
    *,
    cloud: Cloud = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete these images.")] = False,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="With --yes: also images unknown to this ledger."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list; the default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """List images that no import needs; delete them with --yes.

    Only images that carry the tag of ims-import are considered.

    \b
    Examples:
      ims-import gc
      ims-import gc --cloud otc-prod --yes
    """
    from ims_producer.cli import render

    if dry_run and yes:
        stop(Exit.USAGE, "gc: --dry-run only lists and --yes deletes; use one of them")
    with ims_producer.Client() as client:
        report = client.gc(cloud, delete=yes, unknown=unknown)
    if as_json:
        render.print_json(report)
        return
    for line in gc_lines(report, yes=yes, unknown=unknown):
        print(line)
    if report.leftovers and not yes:
        print("nothing was deleted; --yes deletes", file=sys.stderr)


def gc_lines(report: "GcReport", *, yes: bool, unknown: bool) -> Iterator[str]:
    """What no import needs, and what happens to it."""
    for image in report.leftovers:
        if image.image_id in report.deleted:
            outcome = "deleted"
        elif image.known or unknown:
            would = "not deleted" if yes else "--yes deletes it"
            outcome = report.not_deleted.get(image.image_id, would)
        else:
            outcome = "kept: its import is unknown to this ledger (see --unknown)"
        yield f"{image.image_id}  {image.name} ({image.status}): {image.why}; {outcome}"
    for import_id in report.missing:
        yield f"import {import_id} SUCCEEDED, but its image no longer exists"
    yield f"images that no import needs: {len(report.leftovers)}, deleted: {len(report.deleted)}"
