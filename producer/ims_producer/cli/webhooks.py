"""`webhooks …`: who is told of imports, the secrets that sign it, and what was told."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ims_producer.cli.exit_codes import Exit, stop

if TYPE_CHECKING:
    from ims_ledger.outbox import DeliveryState
    from ims_producer.client import Client

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Who is told of imports (signed as Standard Webhooks say), and what they were told.",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="http or https.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    url: Url,
    *,
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENT", help="Only this, e.g. import.failed; may be repeated."),
    ] = None,
    cloud: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only imports to this cloud; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Have an address told of every import from now on; prints the webhook's id.

    For one import alone: ims-import submit --webhook URL.

    \b
    Examples:
      ims-import webhooks add https://chat.example/hooks/images --event import.failed
      ims-import webhooks secret https://chat.example/hooks/images
    """
    from ims_config.webhooks import WebhookEvent
    from ims_producer.client import Client

    known = {str(one): one for one in WebhookEvent}
    for text in event or ():
        if text not in known:
            stop(Exit.USAGE, f"--event {text!r}: must be one of {', '.join(known)}")
    with Client() as client:
        made = client.add_webhook(
            url, events={known[text] for text in event} if event else None, clouds=cloud or None
        )
    print(made.model_dump_json() if as_json else made.id)


@app.command("list")
def list_webhooks(*, as_json: Json = False) -> None:
    """List the addresses that are told of every import that matches."""
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    with Client() as client:
        found = client.webhooks()
    if as_json:
        print(json.dumps([webhook.model_dump(mode="json") for webhook in found]))
        return
    if not found:
        render.say(Console(stderr=True), "None; see: ims-import webhooks add --help")
        return
    render.print_table(Console(highlight=False), render.webhook_table(found))


@app.command()
def remove(
    webhook_id: Annotated[
        str, typer.Argument(metavar="WEBHOOK_ID", help="As `webhooks list` shows it.")
    ],
) -> None:
    """Tell an address nothing more; what waits for it already is still sent."""
    from ims_producer.client import Client

    with Client() as client:
        client.remove_webhook(webhook_id)
    print(f"webhook {webhook_id} is removed")


@app.command()
def secret(url: Url) -> None:
    """Print the secret that a receiver needs to check signatures (whsec_…).

    It is derived from the workers' key and the address without its query, and stored nowhere: run
    this where IMS_IMPORT_SECRET_KEY is set as it is for the workers.
    """
    from ims_config.import_request import parse_webhook_url
    from ims_config.settings import PREFIX, Settings
    from ims_config.webhooks import endpoint_of, secrets_of
    from ims_producer.client import Client

    endpoint = endpoint_of(parse_webhook_url(url))
    # The API has no key: nobody but the ledger and this machine is asked.
    settings = Settings().model_copy(update={"api_url": None})
    if settings.secret_key is None:
        stop(
            Exit.USAGE,
            f"{PREFIX}SECRET_KEY is not set; run this where the workers run, e.g. "
            "docker-compose exec worker ims-import webhooks secret URL",
        )
    with Client(settings) as client:
        [current, *_] = client.ledger.webhook_endpoints.generations(endpoint)
    print(secrets_of(settings.secret_key.get_secret_value(), endpoint, [current])[0])


@app.command()
def rotate(url: Url) -> None:
    """Give an address a new secret; the one before signs as well for 24 hours."""
    from ims_producer.client import Client

    with Client() as client:
        endpoint = client.rotate_webhook(url)
    print(f"{endpoint} has a new secret; see it: ims-import webhooks secret {endpoint}")


@app.command()
def deliveries(
    *,
    import_id: Annotated[
        str | None, typer.Option("--import", metavar="ID", help="Of this import.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="pending, delivered or failed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """List what receivers were told or are to be told, newest first."""
    from rich.console import Console

    from ims_producer.cli import render
    from ims_producer.client import Client

    with Client() as client:
        found = client.deliveries(import_id=import_id, state=_state(state), limit=limit)
    if as_json:
        print(json.dumps([delivery.model_dump(mode="json") for delivery in found]))
        return
    if not found:
        render.say(Console(stderr=True), "No deliveries.")
        return
    render.print_table(Console(highlight=False), render.delivery_table(found))


@app.command()
def resend(
    delivery_id: Annotated[
        list[str] | None,
        typer.Argument(metavar="DELIVERY_ID", help="As `webhooks deliveries` shows them."),
    ] = None,
    *,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that were given up, 200 at a time.")
    ] = False,
) -> None:
    """Send deliveries once more, with the same ids.

    \b
    Examples:
      ims-import webhooks resend msg_0f2c4be0b7a15c0c8d8a3a4f6c1d2e3f
      ims-import webhooks resend --failed
    """
    from ims_producer.client import Client

    if bool(delivery_id) == failed:
        stop(Exit.USAGE, "give either ids of deliveries or --failed")
    with Client() as client:
        ids = _failed(client) if failed else delivery_id or []
        for one in ids:
            client.resend(one)
            print(f"delivery {one} will be sent again")
    if not ids:
        typer.echo("No delivery was given up.", err=True)


def _failed(client: "Client") -> list[str]:
    found = client.deliveries(state=_state("failed"), limit=200)
    # The oldest first, as they were to be told.
    return [delivery.id for delivery in reversed(found)]


def _state(text: str | None) -> "DeliveryState | None":
    from ims_ledger.outbox import DeliveryState

    if text is None:
        return None
    known = {str(one): one for one in DeliveryState}
    if text not in known:
        stop(Exit.USAGE, f"--state {text!r}: must be one of {', '.join(known)}")
    return known[text]
