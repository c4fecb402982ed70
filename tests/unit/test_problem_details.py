"""Errors cross HTTP unchanged: as a problem with a code and typed fields, and back as an error."""

from datetime import UTC, datetime
from typing import get_args

import pytest
import requests

from ims_config.import_request import InvalidRequest, parse_request
from ims_config.records import ErrorClass, Failure, ImportRecord, State
from ims_config.settings import Settings
from ims_config.worker_reports import CloudError
from ims_ledger import (
    ConcurrentTransition,
    InvalidState,
    LedgerNotCurrent,
    LedgerOutdated,
    LedgerUnavailable,
    NotFound,
)
from ims_ledger.errors import Kind
from ims_producer.api.problems import ProblemError, problem_response
from ims_producer.backends.http import HttpBackend
from ims_producer.errors import ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable
from ims_producer.http_contract import FieldError, Problem, ProblemCode

RECORD = ImportRecord(
    id="6f2c8f0e", state=State.FAILED, kind="system", name="ubuntu", image_url="b:k",
    created_at=datetime(2026, 11, 25, tzinfo=UTC), request={},
)  # fmt: skip
UNKNOWN_CLOUD = CloudError(
    failure=Failure(
        code="CLOUD.unknown",
        message="no entry 'x' in clouds.yaml; known: otc; other",
        error_class=ErrorClass.PERMANENT,
        hint="Name a known entry; or add one: to every worker.",
    ),
    tried="read clouds.yaml",
)


def sent(exc: Exception) -> requests.Response:
    """The response of the API to this error."""
    answer, response = problem_response(exc), requests.Response()
    response.status_code, response._content = answer.status_code, bytes(answer.body)
    response.url = "http://api"
    return response


def received(exc: Exception) -> Exception:
    """What the client raises when the API ends a request with this error."""
    return HttpBackend(Settings(api_url="http://api"))._error(sent(exc))


@pytest.mark.parametrize(
    "exc",
    [
        *(NotFound(kind, "abc") for kind in get_args(Kind)),
        InvalidState(RECORD, "only this: UNCERTAIN; nothing else"),
        ConcurrentTransition(RECORD),
        WorkerRefused(UNKNOWN_CLOUD),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_error_arrives_unchanged(exc: Exception) -> None:
    arrived = received(exc)

    assert type(arrived) is type(exc)
    assert str(arrived) == str(exc)
    assert vars(arrived) == vars(exc)


def test_a_message_with_separators_arrives_in_one_piece() -> None:
    arrived = received(WorkerRefused(UNKNOWN_CLOUD))

    assert isinstance(arrived, WorkerRefused)
    assert arrived.failure == UNKNOWN_CLOUD.failure


def test_an_invalid_request_arrives_field_by_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"name": " a; b: c", "min_disk": 0})

    arrived = received(caught.value)

    assert isinstance(arrived, InvalidRequest)
    assert arrived.problems == caught.value.problems


def test_a_refused_key_arrives_with_detail_and_fields() -> None:
    errors = [FieldError(field="cloud", detail="must be one of: a; got 'b'")]

    arrived = received(ProblemError(ProblemCode.FORBIDDEN, "key ci is limited", errors=errors))

    assert isinstance(arrived, KeyRefused)
    assert arrived.problems == ("key ci is limited", "cloud: must be one of: a; got 'b'")


@pytest.mark.parametrize(
    ("exc", "arrives", "code"),
    [
        (LedgerUnavailable("/secret/path"), ApiUnavailable, "ledger_unavailable"),
        (LedgerOutdated("/secret/path"), ApiUnavailable, "ledger_unavailable"),
        (LedgerNotCurrent("secret-a", "secret-b"), ApiUnavailable, "ledger_not_current"),
        (WorkerUnavailable("redis://:secret@host"), WorkerUnavailable, "worker_unavailable"),
        (RuntimeError("secret"), ApiUnavailable, "internal_error"),
    ],
)
def test_an_outage_arrives_without_its_internals(
    exc: Exception, arrives: type[Exception], code: str
) -> None:
    response = sent(exc)

    assert Problem.model_validate_json(response.content).code == code
    assert "secret" not in response.text
    assert type(received(exc)) is arrives


@pytest.mark.parametrize("body", [b"<html>", b'{"detail": "another service"}', b"[]"])
def test_a_response_of_another_service_is_named_as_such(body: bytes) -> None:
    response = requests.Response()
    response.status_code, response._content, response.url = 404, body, "http://other/v1/imports"

    error = HttpBackend(Settings(api_url="http://other"))._error(response)

    assert isinstance(error, ApiUnavailable)
    assert "http://other/v1/imports: HTTP 404, not a response" in str(error)
