"""`webhooks …`: receivers of events, the secrets that sign them, and their deliveries."""

from contextlib import closing
from typing import Annotated, Final

import typer

import ims_producer
from ims_producer.cli.exit_codes import Exit, stop
from ims_producer.cli.options import ArrayAsJson, choice

MAX_DELIVERIES: Final = 200

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Manage webhooks, their secrets and deliveries.",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="An http or https URL.")]


@app.command()
def add(
    url: Url,
    *,
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="EVENT", help="Only this event, e.g. import.failed; repeatable."),
    ] = None,
    cloud: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only imports into this cloud; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the webhook as JSON.")] = False,
) -> None:
    """Send events of all imports to a URL; prints the webhook id.

    For a single import, use: ims-import submit --webhook URL

    \b
    Examples:
      ims-import webhooks add https://chat.example/hook --event import.failed
      ims-import webhooks secret https://chat.example/hook
    """
    from ims_config.webhooks import WebhookEvent
    from ims_producer.cli import render

    events = {choice(WebhookEvent, text, "--event") for text in event or ()}
    with ims_producer.Client() as client:
        webhook = client.add_webhook(url, events=events or None, clouds=cloud or None)
    render.print_result(webhook, webhook.id, as_json=as_json)


@app.command("list")
def list_webhooks(*, as_json: ArrayAsJson = False) -> None:
    """List webhooks."""
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        render.print_list(
            client.webhooks(),
            render.webhook_row,
            as_json=as_json,
            empty="No webhooks found. Add one: ims-import webhooks add --help",
        )


@app.command()
def remove(
    webhook_id: Annotated[
        str, typer.Argument(metavar="WEBHOOK_ID", help="Id from `webhooks list`.")
    ],
) -> None:
    """Remove a webhook; pending deliveries are still sent."""
    with ims_producer.Client() as client:
        client.remove_webhook(webhook_id)
    print(f"webhook {webhook_id} is removed")


@app.command()
def secret(url: Url) -> None:
    """Print the secret for verifying signatures.

    The secret (whsec_…) is derived from the URL without its query and IMS_IMPORT_SECRET_KEY; it is
    stored nowhere. Run this command with the same IMS_IMPORT_SECRET_KEY as the workers.
    """
    from ims_config.import_request import parse_webhook_url
    from ims_config.settings import PREFIX, ClientSettings, WorkerSettings
    from ims_config.webhooks import endpoint_of, secrets_of
    from ims_ledger import open_ledger

    endpoint = endpoint_of(parse_webhook_url(url))
    # The HTTP API does not know the secret key, so this reads the ledger directly.
    settings = WorkerSettings()
    if not settings.secret_key or ClientSettings().api_url:
        stop(
            Exit.USAGE,
            f"webhooks secret: requires {PREFIX}SECRET_KEY and the ledger, not {PREFIX}API_URL; "
            "run this on a worker host, e.g. "
            "docker-compose exec worker ims-import webhooks secret URL",
        )
    with closing(open_ledger(settings.ledger)) as ledger:
        [current, *_] = ledger.webhook_endpoints.generations(endpoint)
    print(secrets_of(settings.secret_keys, endpoint, [current])[0])


@app.command()
def rotate(url: Url) -> None:
    """Rotate the secret of a URL; the old one works for 24 hours."""
    with ims_producer.Client() as client:
        endpoint = client.rotate_webhook(url)
    print(f"{endpoint} has a new secret; print it: ims-import webhooks secret {endpoint}")


@app.command()
def deliveries(
    *,
    import_id: Annotated[
        str | None, typer.Option("--import", metavar="ID", help="Only deliveries of this import.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="pending, delivered or failed.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_DELIVERIES, metavar="N", help="Maximum number.")
    ] = 50,
    as_json: ArrayAsJson = False,
) -> None:
    """List sent and pending deliveries, newest first."""
    from ims_ledger.outbox import DeliveryState
    from ims_producer.cli import render

    only = None if state is None else choice(DeliveryState, state, "--state")
    with ims_producer.Client() as client:
        deliveries = client.deliveries(import_id=import_id, state=only, limit=limit)
    render.print_list(
        deliveries, render.delivery_row, as_json=as_json, empty="No deliveries found."
    )


@app.command()
def resend(
    delivery_id: Annotated[
        list[str] | None,
        typer.Argument(metavar="DELIVERY_ID", help="Ids from `webhooks deliveries`."),
    ] = None,
    *,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed deliveries, up to 200 at a time.")
    ] = False,
) -> None:
    """Send deliveries again, with the same ids.

    \b
    Examples:
      ims-import webhooks resend msg_0f2c4be0b7a15c0c8d8a3a4f6c1d2e3f
      ims-import webhooks resend --failed
    """
    from ims_ledger.outbox import DeliveryState

    if bool(delivery_id) == failed:
        stop(Exit.USAGE, "resend: use either delivery ids or --failed")
    with ims_producer.Client() as client:
        ids = delivery_id or []
        if failed:
            deliveries = client.deliveries(state=DeliveryState.FAILED, limit=MAX_DELIVERIES)
            # The list is newest first; receivers expect the oldest first.
            ids = [delivery.id for delivery in reversed(deliveries)]
        for item in ids:
            client.resend(item)
            print(f"delivery {item} will be sent again")
    if not ids:
        typer.echo("No failed deliveries found.", err=True)
