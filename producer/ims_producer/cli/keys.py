"""`keys create`, `keys list` and `keys revoke`: who may use the HTTP API."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from ims_producer.cli.durations import age
from ims_producer.cli.exit_codes import Exit, stop

LONGEST_NAME = 64

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keys of the HTTP API: made here, shown once, kept as a hash.",
)


@app.command()
def create(
    *,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Whose it is; imports show it as requested by.")
    ],
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPES",
            help="read, submit, admin; several with commas. submit: ask, cancel, retry. "
            "admin: everything.",
        ),
    ],
    cloud: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only for this cloud; may be repeated."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="AGE", help="Such as 90d or 12h; never without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"id", "key"} as JSON.')] = False,
) -> None:
    """Make a key and print it: it cannot be shown again.

    \b
    Examples:
      ims-import keys create --name ci --scope submit,read --expires 90d
      ims-import keys create --name dashboard --scope read --cloud otc-prod
      export IMS_IMPORT_API_KEY=$(ims-import keys create --name me --scope submit,read)
    """
    from ims_config.records import Scope
    from ims_producer.client import Client

    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        stop(Exit.USAGE, f"--name {name!r}: must be 1 to 64 printable characters")
    known = {str(one): one for one in Scope}
    wanted = [text.strip() for text in scope.split(",")]
    for text in wanted:
        if text not in known:
            stop(Exit.USAGE, f"--scope {text!r}: must be one of {', '.join(known)}")
    until = None if expires is None else datetime.now(UTC) + age(expires, "--expires")
    with Client() as client:
        key, text = client.create_key(
            name, scopes={known[one] for one in wanted}, clouds=cloud or None, expires_at=until
        )
    print(json.dumps({"id": key.id, "key": text}) if as_json else text)


@app.command("list")
def list_keys(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print an array.")] = False
) -> None:
    """List keys, without their secrets."""
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    with Client() as client:
        found = client.keys()
    if as_json:
        print(json.dumps([key.model_dump(mode="json") for key in found]))
        return
    if not found:
        render.say(Console(stderr=True), "No keys; make one: ims-import keys create --help")
        return
    render.print_table(Console(highlight=False), render.key_table(found))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")],
) -> None:
    """Let a key open nothing any more, from this moment on."""
    from ims_producer.client import Client

    with Client() as client:
        key = client.revoke_key(key_id)
    print(f"key {key.id} ({key.name}) is revoked")
