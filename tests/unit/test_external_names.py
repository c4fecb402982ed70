"""Names that scripts and other systems rely on, compared with `tests/external_names.json`.

`released` holds the names of the last release: none of them may disappear or change.
`added` holds what has been added since, on purpose. A name in neither list fails the test.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import ims_producer
from ims_config import names
from ims_config.import_request import ImportRequest
from ims_config.records import ImportRecord, ImportResult, Scope, State
from ims_config.settings import PREFIX, Settings
from ims_config.webhooks import WebhookEvent
from ims_producer.api.app import make_app
from ims_producer.cli.app import app as cli
from ims_producer.cli.exit_codes import Exit
from ims_worker.app import app as worker

ROOT = Path(__file__).parents[2]
LISTED: dict[str, dict[str, list[str]]] = json.loads(
    (ROOT / "tests" / "external_names.json").read_text()
)


def task_names() -> Iterator[str]:
    yield from (name for name in worker.tasks if name.startswith("ims."))


def queues() -> Iterator[str]:
    yield from (queue.name for queue in worker.conf.task_queues)


def settings() -> Iterator[str]:
    yield from (f"{PREFIX}{name.upper()}" for name in Settings.model_fields)


def cli_commands() -> Iterator[str]:
    """One line for each command: its path, its arguments in upper case, and its options."""
    yield from _commands("ims-import", typer.main.get_command(cli))


def _commands(path: str, command: Any) -> Iterator[str]:
    by_type: dict[str, list[str]] = {"argument": [], "option": []}
    for param in command.params:
        spellings = [*sorted(param.opts), *sorted(param.secondary_opts)]
        by_type[param.param_type_name].append("/".join(spellings))
    yield " ".join([path, *map(str.upper, by_type["argument"]), *sorted(by_type["option"])])
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", subcommand)


def http_operations() -> Iterator[str]:
    """Method and path of each operation, with the names of its query parameters and headers."""
    for path, operations in make_app(Settings()).openapi()["paths"].items():
        for method, operation in operations.items():
            parameters = sorted(
                parameter["name"]
                for parameter in operation.get("parameters", [])
                if parameter["in"] in ("query", "header")
            )
            yield " ".join([f"{method.upper()} {path}", *parameters])


def states() -> Iterator[str]:
    yield from State


def exit_codes() -> Iterator[str]:
    yield from (str(int(code)) for code in Exit)


def request_fields() -> Iterator[str]:
    yield from ImportRequest.model_fields


def record_fields() -> Iterator[str]:
    yield from _fields(ImportRecord, "record")


def result_fields() -> Iterator[str]:
    yield from _fields(ImportResult, "result")


def _fields(model: type[ImportRecord], root: str) -> Iterator[str]:
    """Every path in the JSON of a model."""
    schema = model.model_json_schema(mode="serialization")
    yield from _paths(schema, schema["$defs"], root)


def _paths(schema: Any, definitions: Any, path: str) -> Iterator[str]:
    for option in (schema, *schema.get("anyOf", [])):
        target = definitions.get(option.get("$ref", "").rpartition("/")[2], option)
        for name, field in target.get("properties", {}).items():
            yield f"{path}.{name}"
            yield from _paths(field, definitions, f"{path}.{name}")


def redis_keys() -> Iterator[str]:
    """The constant part of every key that the code holds, e.g. `ims-import:token`."""
    for package in ("config", "ledger", "producer", "worker"):
        for file in (ROOT / package).rglob("*"):
            if file.suffix in (".py", ".lua"):
                yield from re.findall(r"\bims-import:[a-z-]+", file.read_text())


def image_tags() -> Iterator[str]:
    yield names.IMPORT_ID_TAG


def python_api() -> Iterator[str]:
    yield from (name for name in ims_producer.__all__ if getattr(ims_producer, name))


def webhook_events() -> Iterator[str]:
    yield from WebhookEvent


def api_key_scopes() -> Iterator[str]:
    yield from Scope


def console_scripts() -> Iterator[str]:
    text = (ROOT / "pyproject.toml").read_text()
    [section] = re.findall(r"^\[project\.scripts\]\n((?:.+\n)+)", text, re.MULTILINE)
    yield from section.splitlines()


CATEGORIES = {
    "tasks": task_names,
    "queues": queues,
    "settings": settings,
    "cli": cli_commands,
    "http": http_operations,
    "states": states,
    "exit codes": exit_codes,
    "request": request_fields,
    "record": record_fields,
    "result": result_fields,
    "redis keys": redis_keys,
    "image tags": image_tags,
    "from ims_producer import": python_api,
    "webhook events": webhook_events,
    "api key scopes": api_key_scopes,
    "console scripts": console_scripts,
}


@pytest.mark.parametrize("category", CATEGORIES)
def test_external_names_are_the_listed_ones(category: str) -> None:
    listed = {*LISTED["released"][category], *LISTED["added"].get(category, [])}

    assert {str(name) for name in CATEGORIES[category]()} == listed


def test_every_list_belongs_to_a_category() -> None:
    assert LISTED["released"].keys() == CATEGORIES.keys()
    assert LISTED["added"].keys() <= CATEGORIES.keys()
