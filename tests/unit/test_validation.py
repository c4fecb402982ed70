"""One place words pydantic's errors."""

import pytest
from celery import Celery
from celery.backends.base import Backend
from pydantic import BaseModel, ValidationError

from ims_config.import_request import InvalidRequest
from ims_config.validation import SHOWN, FieldError, InvalidInput, field_errors


class Disk(BaseModel, extra="forbid"):
    size: int
    unit: str = "GB"


def errors_of(
    raw: object, *, root: str = "disk", show_values: bool = True, known: tuple[str, ...] = ()
) -> tuple[FieldError, ...]:
    with pytest.raises(ValidationError) as caught:
        Disk.model_validate(raw)
    return field_errors(caught.value, root=root, show_values=show_values, known=known)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({}, "size: is mandatory"),
        ([], "disk: must be a valid dictionary or instance of Disk; got []"),
        ({"size": 1, "sise": 1}, "sise: unknown field; got 1"),
        ({"size": 1, "a\nb": 1}, "a\\nb: unknown field; got 1"),
    ],
)
def test_an_error_is_one_line_with_field_rule_and_value(raw: object, line: str) -> None:
    assert [str(error) for error in errors_of(raw)] == [line]


def test_an_unknown_field_can_name_the_known_ones() -> None:
    [error] = errors_of({"size": 1, "sise": 1}, known=("size", "unit"))

    assert error.rule == "unknown field; valid: size, unit"


def test_values_that_may_be_secret_are_left_out() -> None:
    [error] = errors_of({"size": "s3cret"}, show_values=False)

    assert error.value is None
    assert "s3cret" not in str(error)


def test_long_values_are_cut() -> None:
    [error] = errors_of({"size": "x" * 1000})

    assert error.value == "'" + "x" * (SHOWN - 1) + "…"


def test_a_request_that_travels_through_celery_keeps_its_lines() -> None:
    backend = Backend(Celery("test", set_as_current=False))
    refused = InvalidRequest(FieldError("min_disk", "must be 1 to 1024", "0"), "other: too")

    received = backend.exception_to_python(backend.prepare_exception(refused, "json"))

    assert isinstance(received, InvalidInput)
    assert received.problems == ["min_disk: must be 1 to 1024; got 0", "other: too"]
    assert received.errors == ()
