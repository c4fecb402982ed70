"""What Flower shows: readable arguments and results, and no secrets."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from celery.utils.saferepr import saferepr
from celery.utils.serialization import get_pickleable_exception
from kombu.utils.encoding import safe_repr
from kombu.utils.json import dumps

from ims_config.celery_app import make_celery
from ims_config.records import ErrorClass, Failure, ImportResult, State
from ims_config.settings import ClientSettings
from ims_config.signatures import ImportRef, import_flow, poll_signature, ref_to
from ims_worker.flower import format_task, redact, redact_event
from ims_worker.tasks.results import FinalResult, failure_of


def a_result(state: State = State.SUCCEEDED, error: Failure | None = None) -> ImportResult:
    return ImportResult(
        id="i",
        state=state,
        kind="system",
        name="ubuntu",
        image_url="images:ubuntu.qcow2",
        image_id="img-1",
        error=error,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        request={},
    )


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
def test_text_that_looks_like_a_secret_is_removed(text: str) -> None:
    assert "s3cret" not in redact(text)


@pytest.mark.parametrize("field", ["args", "kwargs", "result", "exception", "traceback"])
def test_no_event_brings_a_secret_to_flower(field: str) -> None:
    assert "s3cret" not in str(redact_event({"uuid": "1", field: "{'password': 's3cret'}"}))


def test_messages_show_which_image_is_imported_from_which_file() -> None:
    app = make_celery(ClientSettings(), results=False)

    submit, poll = import_flow(app, a_result()).tasks
    later = poll_signature(app, ref_to(a_result(), 3))

    shown = "ubuntu from images:ubuntu.qcow2"
    assert [each.options["argsrepr"] for each in (submit, poll, later)] == [shown] * 3


def test_a_reference_is_plain_json_and_reads_back() -> None:
    ref = ref_to(a_result(), 3)
    raw = json.loads(dumps(ref))

    assert raw == {
        "id": "i",
        "name": "ubuntu",
        "image_url": "images:ubuntu.qcow2",
        "generation": 3,
    }
    assert ImportRef.parse(raw) == ref
    assert ImportRef.parse("i") == ImportRef(id="i")


def test_a_result_shows_its_image_and_is_plain_json() -> None:
    result = FinalResult(a_result())

    assert saferepr(result, 1024) == "image img-1"
    assert json.loads(dumps(result))["image_id"] == "img-1"


@pytest.mark.parametrize("reason", ["The file is empty", "it's empty", 'a "quoted", {reason}'])
def test_failures_show_code_and_reason(reason: str) -> None:
    error = Failure(
        code="IMG.0057", message=reason, error_class=ErrorClass.PERMANENT, hint="Check the file."
    )
    failed = failure_of(a_result(State.FAILED, error))

    # As Celery does before it emits the event.
    assert safe_repr(get_pickleable_exception(failed)) == f"IMG.0057: {reason}"
    assert json.loads(dumps(failed.args))[2]["class"] == "permanent"


def test_the_row_of_a_failed_import_shows_its_reason() -> None:
    task = SimpleNamespace(args="", kwargs="{}", result=None, exception="IMG.0057: bad")

    assert format_task(task).result == "IMG.0057: bad"


def test_long_results_are_shortened() -> None:
    task = SimpleNamespace(args="", kwargs="{}", result="x" * 1000, exception=None)

    assert len(format_task(task).result) < 300
