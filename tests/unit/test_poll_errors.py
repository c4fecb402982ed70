"""While polls fail, the record says so: since when, how often, why, and what to do."""

import json
import logging
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from ims_client import dropped
from simulated_ims import SimulatedIms
from unit.test_importer import QUICK_SETTINGS, Clock, Scenario
from urllib3.exceptions import MaxRetryError

from ims_config.records import ErrorClass, PollError, State
from ims_ledger import Ledger


def not_trusted() -> requests.exceptions.SSLError:
    cause = MaxRetryError(None, "/", ssl.SSLCertVerificationError("self-signed"))  # type: ignore[arg-type]  # no pool
    return requests.exceptions.SSLError(cause)


# Permissions, redirects, and answers of something that is not IMS: a person must act.
LASTING: dict[str, tuple[Any, str, str]] = {
    "403 with a code": ((403, {"error_code": "IMG.0026", "error_msg": "no"}), "IMG.0026", "hold"),
    "403 of the gateway": (
        (403, {"error_code": "APIG.0302", "error_msg": "no"}),
        "APIG.0302",
        "hold",
    ),
    "403 without a code": ((403, b"<html>Forbidden</html>"), "HTTP.403", "hold"),
    "301": ((301, b"", {"Location": "https://elsewhere.example"}), "HTTP.301", "hold"),
    "302 to a login page": ((302, b"<html>log in</html>"), "HTTP.302", "hold"),
    "307": ((307, b""), "HTTP.307", "hold"),
    "404 of the gateway": (
        (404, {"error_code": "APIGW.0101", "error_msg": "The API does not exist."}),
        "APIGW.0101",
        "permanent",
    ),
    "404 as HTML": ((404, b"<html><h1>Not Found</h1></html>"), "HTTP.404", "permanent"),
    "404 without a body": ((404, b""), "HTTP.404", "permanent"),
    "certificate": (not_trusted(), "NETWORK.tls", "hold"),
    "token refused": ((401, b""), "HTTP.401", "auth"),
}
PASSING: dict[str, tuple[Any, str, str]] = {
    "500": ((500, {"error_code": "IMG.0061", "error_msg": "internal"}), "IMG.0061", "retry"),
    "502 as HTML": ((502, b"<html>Bad Gateway</html>"), "HTTP.502", "retry"),
    "504": ((504, {"message": "Wait response timeout."}), "HTTP.504", "retry"),
    "429": ((429, b""), "HTTP.429", "retry"),
    "no response": (requests.ReadTimeout("timed out"), "NETWORK.read-timeout", "retry"),
    "no connection": (requests.ConnectTimeout("timed out"), "NETWORK.connect-timeout", "retry"),
    "lost": (dropped(), "NETWORK.lost", "retry"),
    "unreadable": ((200, b"<html>welcome</html>"), "ANSWER.unreadable", "retry"),
}
CAUSES = LASTING | PASSING


@pytest.fixture
def scenario(tmp_path: Path) -> Iterator[Scenario]:
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", now=clock)
    ledger.migrate()
    scenario = Scenario(ledger, SimulatedIms(now=clock), clock)
    scenario.cloud.state.polls_per_job = 20
    scenario.submit()
    scenario.poll()
    yield scenario
    ledger.close()


def poll_until_asked(scenario: Scenario, times: int = 1) -> None:
    """Poll as often as this, after every pause that the importer asks for."""
    asked = len(scenario.cloud.wire.calls)
    for _ in range(times):
        while len(scenario.cloud.wire.calls) == asked:
            scenario.clock.now += scenario.pauses[-1]
            scenario.poll()
        asked = len(scenario.cloud.wire.calls)


def kinds(scenario: Scenario) -> list[str]:
    events = scenario.ledger.imports.events(scenario.id)
    return [event.kind for event in events if event.kind != "transition"]


def poll_error(scenario: Scenario) -> PollError:
    error = scenario.now.poll_error
    assert error is not None
    return error


@pytest.mark.parametrize("cause", CAUSES)
def test_the_first_failed_poll_shows_its_cause_in_the_record(
    scenario: Scenario, cause: str
) -> None:
    reply, code, error_class = CAUSES[cause]
    scenario.cloud.answer(reply)

    poll_until_asked(scenario)

    error = poll_error(scenario)
    assert scenario.now.state is State.RUNNING
    assert (error.code, error.error_class) == (code, error_class)
    assert error.since == scenario.clock.now == scenario.poll_state.last_at
    assert error.hint
    assert (error.error_class is not ErrorClass.RETRY) == (cause in LASTING)
    assert ("retrying automatically" in error.hint) <= (cause in PASSING)


def test_a_wrong_password_shows_as_refused_credentials(scenario: Scenario) -> None:
    scenario.cloud.refuse_logins()

    poll_until_asked(scenario)

    assert scenario.now.state is State.RUNNING
    assert (poll_error(scenario).code, poll_error(scenario).error_class) == ("IAM.0001", "auth")


@pytest.mark.parametrize("cause", CAUSES)
def test_polls_that_fail_in_the_same_way_are_counted_and_reported_once(
    scenario: Scenario, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenario.cloud.answer(CAUSES[cause][0])
    with caplog.at_level(logging.WARNING, logger="ims_worker.importer"):
        poll_until_asked(scenario)
        first = scenario.now
        poll_until_asked(scenario, times=4)

    assert scenario.now == first
    assert scenario.poll_state.failures == 5
    assert kinds(scenario) == ["unreachable"]
    assert [record.message for record in caplog.records] == ["poll failed"]


@pytest.mark.parametrize("cause", ["403 with a code", "302 to a login page", "500"])
def test_a_successful_poll_ends_the_poll_error(scenario: Scenario, cause: str) -> None:
    scenario.cloud.answer(CAUSES[cause][0])
    poll_until_asked(scenario, times=2)
    scenario.cloud.answer_again()

    poll_until_asked(scenario, times=2)

    assert scenario.now.poll_error is None
    assert scenario.poll_state.failures is None
    assert kinds(scenario) == ["unreachable", "reachable"]


def test_another_cause_is_another_event_and_the_outage_keeps_its_start(scenario: Scenario) -> None:
    scenario.cloud.answer(CAUSES["500"][0])
    poll_until_asked(scenario)
    began = scenario.clock.now
    scenario.cloud.answer(CAUSES["403 with a code"][0])

    poll_until_asked(scenario)

    error = poll_error(scenario)
    assert (error.code, error.since, scenario.poll_state.failures) == ("IMG.0026", began, 2)
    assert kinds(scenario) == ["unreachable", "unreachable"]


@pytest.mark.parametrize("state", [State.VERIFYING, State.UNCERTAIN])
def test_failing_polls_show_in_every_state_that_asks_the_cloud(
    scenario: Scenario, state: State
) -> None:
    scenario.ledger.transitions.move(
        scenario.id, from_state=State.RUNNING, to=state, image_id="an-image"
    )
    scenario.cloud.answer(CAUSES["403 without a code"][0])

    poll_until_asked(scenario)

    assert (scenario.now.state, poll_error(scenario).code) == (state, "HTTP.403")


@pytest.mark.parametrize("end", ["success", "failure", "resolved by a person"])
def test_an_import_that_ended_has_no_poll_error(scenario: Scenario, end: str) -> None:
    scenario.cloud.answer(CAUSES["404 as HTML"][0])
    poll_until_asked(scenario)
    scenario.cloud.answer_again()
    if end == "resolved by a person":
        move, resolve = scenario.ledger.transitions.move, scenario.ledger.transitions.resolve
        move(scenario.id, from_state=State.RUNNING, to=State.UNCERTAIN)
        resolve(scenario.id, to=State.FAILED, by="eve")
    else:
        scenario.cloud.end_jobs(failed=end == "failure")

    result = scenario.run_to_end()

    assert result.state.terminal
    assert result.poll_error is None


def test_a_poll_that_ends_too_late_does_not_mark_an_import_that_ended(scenario: Scenario) -> None:
    ended = scenario.run_to_end()
    error = PollError(
        code="HTTP.500", message="m", error_class=ErrorClass.RETRY, hint="h",
        since=scenario.clock.now,
    )  # fmt: skip

    scenario.ledger.transitions.report_poll_error(scenario.id, error)

    assert scenario.now == ended


def test_failing_polls_become_rarer_also_near_the_expected_end(scenario: Scenario) -> None:
    scenario.cloud.state.change(show_percent=True)
    poll_until_asked(scenario, times=8)
    scenario.pauses.clear()
    scenario.pauses.append(timedelta(0))
    scenario.cloud.answer(CAUSES["403 with a code"][0])

    poll_until_asked(scenario, times=6)

    assert scenario.pauses == sorted(scenario.pauses)
    assert scenario.pauses[-1] == QUICK_SETTINGS.longest


def test_receivers_of_webhooks_learn_of_each_change_once(scenario: Scenario) -> None:
    scenario.ledger.webhook_endpoints.add("https://ci.example/hook")
    scenario.cloud.answer(CAUSES["302 to a login page"][0])
    poll_until_asked(scenario, times=3)
    scenario.cloud.answer_again()
    poll_until_asked(scenario, times=3)

    messages = [json.loads(body) for body in sent(scenario.ledger)]

    assert [each["type"] for each in messages] == ["import.unreachable", "import.reachable"]
    failing, recovered = (each["data"] for each in messages)
    assert (failing["poll_error"]["code"], failing["poll_error"]["class"]) == ("HTTP.302", "hold")
    assert failing["poll_error"]["count"] == 1
    assert failing["last_poll_at"] == failing["poll_error"]["since"]
    assert recovered["poll_error"] is None


def sent(ledger: Ledger) -> Iterator[str]:
    """The bodies of all messages, in order."""
    while claims := ledger.outbox.claim(lease=timedelta(minutes=1)):
        for claim in claims:
            message = ledger.outbox.begin(claim, lease=timedelta(minutes=1))
            assert message is not None
            yield message.body
            ledger.outbox.delivered(message, 204)
