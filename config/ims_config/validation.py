"""Validation errors as typed values: which field breaks which rule, worded in one place."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

# How many characters of a rejected value an error message repeats.
SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule. `value` is what a message may show of the rejected value."""

    field: str
    rule: str
    value: str | None = None

    @property
    def detail(self) -> str:
        return self.rule if self.value is None else f"{self.rule}; got {self.value}"

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"


class InvalidInput(ValueError):
    """Input that breaks rules; `errors` holds one entry for each of them.

    The only argument that an exception keeps in Celery's JSON is its text, so `errors` is empty
    after such a journey while `problems`, the lines to print, is not.
    """

    def __init__(self, *errors: FieldError | str) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = tuple(error for error in errors if isinstance(error, FieldError))

    @property
    def problems(self) -> list[str]:
        return str(self).splitlines()


class HasErrors(Protocol):
    """A ValidationError of pydantic or FastAPI; the entries of the latter have no type."""

    def errors(self) -> Sequence[Any]: ...


def field_errors(
    exc: HasErrors, *, root: str = "request", show_values: bool = True, known: Iterable[str] = ()
) -> tuple[FieldError, ...]:
    """Name the fields and rules that pydantic reports. `root` names the input as a whole;
    `known` lists the fields it may have. Without `show_values` no error repeats its input."""
    return tuple(_field_errors(exc, root, show_values=show_values, known=", ".join(known)))


def _field_errors(
    exc: HasErrors, root: str, *, show_values: bool, known: str
) -> Iterable[FieldError]:
    for error in exc.errors():
        # Keys of JSON may hold line breaks; an error takes one line.
        path = ".".join(map(str, error["loc"])).encode("unicode_escape").decode()
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, InvalidInput) and cause.errors:
            prefix = f"{path}." if path else ""
            yield from (replace(each, field=prefix + each.field) for each in cause.errors)
            continue
        value = shown(error["input"]) if show_values and error["type"] != "missing" else None
        yield FieldError(path or root, _rule(error["type"], error["msg"], known), value)


def _rule(kind: str, message: str, known: str) -> str:
    match kind:
        case "missing":
            return "is mandatory"
        case "extra_forbidden":
            return f"unknown field; valid: {known}" if known else "unknown field"
        case _:
            return re.sub(r"^\w+ should ", "must ", message.removeprefix("Value error, "))


def shown(value: object) -> str:
    """The value as an error message repeats it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
