"""Option types that several commands share, and the parsing of choices and files."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ims_producer.cli.exit_codes import Exit, stop

Choice = TypeVar("Choice", bound=StrEnum)

ImportId = Annotated[str, typer.Argument(metavar="ID", help="Id of the import.")]
RecordAsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
ArrayAsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array.")]
Cloud = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Entry of the worker's clouds.yaml; default: the worker's default."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Stop waiting after this many seconds."),
]


def choice(kind: type[Choice], text: str, option: str) -> Choice:
    """The member of `kind` that an option names; exits with the valid names if there is none."""
    member = next((member for member in kind if member.value.casefold() == text.casefold()), None)
    if member is None:
        stop(Exit.USAGE, f"{option} {text}: must be one of {', '.join(kind)}")
    return member


def read_text(file: Path, source: str) -> str:
    """The text of a file, or of stdin for `-`; exits with a message if it cannot be read."""
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as exc:
        stop(Exit.USAGE, f"{source}: {exc.strerror}")
    except UnicodeDecodeError:
        stop(Exit.USAGE, f"{source}: must be text in UTF-8")
