"""The OpenAPI document matches the API: every response is documented, and none is a 5xx."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case

from ims_config.settings import Settings
from ims_producer.api.app import make_app
from ims_sandbox.stack import ApiEndpoint, Stack, StackOptions

schema = schemathesis.openapi.from_dict(make_app(Settings()).openapi())
# JSON Schema cannot tell rules over several fields, which cursor is somebody's (422), nor which
# clouds a worker knows (424).
schema.config.checks.positive_data_acceptance.expected_statuses += ["422", "424"]
# It asks every part of the installation, which takes two seconds.
slow = {"path": "/v1/doctor"}
# What is answered without a key. SMN signs in the body, which is read for that.
OPENED = {"/healthz": {200}, "/readyz": {200}, "/v1/events/obs": {401, 400, 422}}


def cases(count: int) -> settings:
    """The same cases in every run, so that a new case does not break an unrelated change."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def api() -> Iterator[ApiEndpoint]:
    options = StackOptions(api=True, settings={"API_RATE_PER_MINUTE": "1000000"})
    with Stack.running(options) as stack:
        assert stack.api is not None
        yield stack.api


@schema.include(**slow).parametrize()
@cases(3)
def test_with_a_key_slowly(case: Case, api: ApiEndpoint) -> None:
    case.call_and_validate(base_url=api.url, headers=api.header)


@schema.exclude(**slow).parametrize()
@cases(25)
def test_with_a_key(case: Case, api: ApiEndpoint) -> None:
    case.call_and_validate(base_url=api.url, headers=api.header)


@schema.parametrize()
@cases(25)
def test_without_a_key(case: Case, api: ApiEndpoint) -> None:
    response = case.call(base_url=api.url)

    case.validate_response(response)
    # 405: a method that the document does not have.
    assert response.status_code in OPENED.get(case.operation.path, {401}) | {405}
