"""`show`, `list` and `watch`: how imports stand."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ims_producer.cli.exit_codes import Exit, stop

if TYPE_CHECKING:
    from ims_config.records import ImportResult, State
    from ims_producer.client import Client

MOST_WATCHED = 200


def show(
    import_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the import.")],
    *,
    events: Annotated[bool, typer.Option("--events", help="What happened, step by step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Show one import: its state, reason, image and what to do.

    \b
    Examples:
      ims-import show 6f2c8f0e-…
      ims-import show 6f2c8f0e-… --json | jq -r .image_id
      ims-import show 6f2c8f0e-… --events
    """
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    with Client() as client:
        result = client.get(import_id)
        happened = client.events(import_id) if events else []
    if as_json:
        said = result.model_dump(mode="json")
        if events:
            said["events"] = [event.model_dump(mode="json") for event in happened]
        print(json.dumps(said))
        return
    console = Console(highlight=False)
    render.print_table(console, render.details(result))
    for event in happened:
        step = f"{event.from_state or '·'} → {event.to_state}" if event.to_state else event.kind
        why = f"  {event.reason}" if event.reason else ""
        render.say(console, f"{event.at:%Y-%m-%d %H:%M:%S}  {step}{why}")


def list_imports(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Only imports in this state; may be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only imports with this image name.")
    ] = None,
    cloud: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only imports to this cloud.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most so many, newest first.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print an array of records.")] = False,
) -> None:
    """List imports, newest first.

    \b
    Examples:
      ims-import list
      ims-import list --state RUNNING --state WAITING
      ims-import list --state FAILED --json | jq -r '.[].error.code'
    """
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    states = _states(state or [])
    with Client() as client:
        found = client.list(states=states, name=name, cloud=cloud, limit=limit)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in found]))
        return
    console = Console(highlight=False)
    if not found:
        render.say(Console(stderr=True), "No imports found.")
        return
    render.print_table(console, render.table(found, bars=console.is_terminal, ids=True))


def _states(given: Sequence[str]) -> "list[State]":
    from ims_config.records import State

    known = {str(state): state for state in State}
    for text in given:
        if text.upper() not in known:
            stop(Exit.USAGE, f"--state {text}: must be one of {', '.join(known)}")
    return [known[text.upper()] for text in given]


def watch(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]…", help="Imports; without, all open ones.")
    ] = None,
    *,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Stop watching after so long.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an array of records at the end.")
    ] = False,
) -> None:
    """Watch imports until they have ended.

    Exit code 0 if all succeeded, 1 if one failed, 3 if the time was up before.

    \b
    Examples:
      ims-import watch
      ims-import watch 6f2c8f0e-… --timeout 3600
    """
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    console = Console(stderr=True, highlight=False)
    with Client() as client:
        wanted = ids or _open(client)
        if not wanted:
            render.say(console, "No import is open.")
        results = render.follow(console, client, wanted, timeout=timeout) if wanted else []
    for result in results:
        for line in render.outcome(result):
            render.say(console, line)
    if as_json:
        print(json.dumps([result.model_dump(mode="json") for result in results]))
    raise SystemExit(int(worst(results)))


def _open(client: "Client") -> list[str]:
    from ims_config.records import TERMINAL, State

    states = [state for state in State if state not in TERMINAL]
    return [record.id for record in client.list(states=states, limit=MOST_WATCHED)]


def worst(results: "Sequence[ImportResult]") -> Exit:
    """The exit code of somebody who waited for all of these."""
    from ims_producer.cli.submit import exit_of

    codes = {exit_of(result) for result in results}
    order = (Exit.FAILED, Exit.UNCERTAIN, Exit.CREDENTIALS, Exit.STILL_TRACKED)
    return next((code for code in order if code in codes), Exit.DONE)
