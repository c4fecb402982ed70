"""What Flower is given to show: a person can read it, and no secret is in it."""

from types import SimpleNamespace

import pytest

from ims_worker.flower import format_task, outcome, readable, redact, tidy


@pytest.mark.parametrize(
    "text",
    [
        "{'password': 's3cret', 'name': 'a'}",
        "{'auth': {'X-Auth-Token': 's3cret'}}",
        "password=s3cret",
        "Authorization: Bearer s3cret",
        "redis://:s3cret@cache:6379/0 refused",
        "postgresql+psycopg://me:s3cret@host/db",
        '{"secret_key": "s3cret"}',
        "ak=s3cret, sk=s3cret",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    assert "s3cret" not in redact(text)


@pytest.mark.parametrize("field", ["args", "kwargs", "result", "exception", "traceback"])
def test_flower_never_hears_a_secret(field: str) -> None:
    assert "s3cret" not in str(tidy({"uuid": "1", field: "{'password': 's3cret'}"}))


def test_arguments_say_which_image_from_which_file() -> None:
    ticket = "({'id': 'i', 'name': 'ubuntu', 'image_url': 'images:ubuntu.qcow2'},)"

    assert readable(ticket) == "ubuntu from images:ubuntu.qcow2"
    assert readable("('anything else',)") == "('anything else',)"


def test_results_say_which_image_came_of_it() -> None:
    assert outcome("{'id': 'i', 'state': 'SUCCEEDED', 'image_id': 'img-1', 'error'…") == (
        "image img-1"
    )


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("The file is empty", "The file is empty"), ("it's empty", "it's empty")],
)
def test_failures_say_code_and_reason(reason: str, shown: str) -> None:
    raised = f"ImportFailed('IMG.0057', {reason!r}, {{'hint': 'Look', 'import_id': 'i'}})"

    assert outcome(raised) == f"IMG.0057: {shown}"


def test_the_row_of_a_failed_import_holds_its_reason() -> None:
    task = SimpleNamespace(
        args="()", kwargs="{}", result=None, exception="ImportFailed('IMG.0057', 'bad', {})"
    )

    assert format_task(task).result == "IMG.0057: bad"
