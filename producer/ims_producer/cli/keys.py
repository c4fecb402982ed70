"""`keys create`, `keys list` and `keys revoke`: the API keys of the HTTP API."""

import json
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

import ims_producer
from ims_producer.cli.durations import parse_duration
from ims_producer.cli.exit_codes import Exit, stop
from ims_producer.cli.options import ArrayAsJson, choice

MAX_NAME_LENGTH: Final = 64

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list and revoke API keys of the HTTP API.",
)


@app.command()
def create(
    *,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Owner; imports show it as requested_by.")
    ],
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPES",
            help="read, submit or admin, comma-separated. submit: submit, cancel and retry; "
            "admin: everything.",
        ),
    ],
    cloud: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Limit to this cloud; repeatable."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="AGE", help="Such as 90d or 12h; default: never.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"id", "key"} as JSON.')] = False,
) -> None:
    """Create a key and print it once; only its hash is stored.

    \b
    Examples:
      ims-import keys create --name ci --scope submit,read --expires 90d
      ims-import keys create --name dashboard --scope read --cloud otc-prod
      export IMS_IMPORT_API_KEY=$(
          ims-import keys create --name me --scope submit,read)
    """
    from ims_config.records import Scope

    if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        stop(Exit.USAGE, f"--name {name!r}: must be 1 to {MAX_NAME_LENGTH} printable characters")
    scopes = {choice(Scope, text.strip(), "--scope") for text in scope.split(",")}
    expires_at = None
    if expires is not None:
        expires_at = datetime.now(UTC) + parse_duration(expires, "--expires")
    with ims_producer.Client() as client:
        key, text = client.create_key(
            name, scopes=scopes, clouds=cloud or None, expires_at=expires_at
        )
    print(json.dumps({"id": key.id, "key": text}) if as_json else text)


@app.command("list")
def list_keys(*, as_json: ArrayAsJson = False) -> None:
    """List keys, without their secrets."""
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        render.print_list(
            client.keys(),
            render.key_row,
            as_json=as_json,
            empty="No keys found. Create one: ims-import keys create --help",
        )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="Id from `keys list`.")],
) -> None:
    """Revoke a key, effective immediately."""
    with ims_producer.Client() as client:
        key = client.revoke_key(key_id)
    print(f"key {key.id} ({key.name}) is revoked")
