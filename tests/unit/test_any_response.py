"""No response of the cloud crashes a step, repeats a create or invents an outcome."""

import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from fakes import FakeClouds, FakeCooldowns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ims_client import PROJECT, Reply, Wire, client_on, dropped
from unit.test_importer import QUICK_SETTINGS, Clock, Scenario
from unit.test_responses import BODIES

from ims_ledger import Ledger
from ims_worker.importer import Importer

IMAGE = {"id": "img-1", "name": "ubuntu-24.04", "min_disk": 40, "owner": PROJECT}
TAGGED = IMAGE | {"tags": ["ims-import-id=IMPORT"], "status": "active"}
# Successful responses by path, and errors of IMS: without these, random responses would hardly get
# past the first call.
SENSIBLE: dict[str, list[Any]] = {
    "/action": [{"job_id": "job-1"}],
    "/jobs/": [
        {"job_id": "job-1", "status": "INIT", "entities": {}},
        {"job_id": "job-1", "status": "RUNNING", "entities": {"process_percent": 0.5}},
        {"job_id": "job-1", "status": "SUCCESS", "entities": {"image_id": "img-1"}},
        {"job_id": "job-1", "status": "SUCCESS", "entities": {}},
        {"job_id": "job-1", "status": "FAIL", "error_code": "IMG.0057", "fail_reason": "empty"},
        {"job_id": "job-1", "status": "FAIL", "error_code": "IMG.0195", "fail_reason": "busy"},
    ],
    "/v2/images/": [
        IMAGE | {"status": status} for status in ("active", "queued", "saving", "killed", "new")
    ],
    "/v2/cloudimages?": [
        {"images": []},
        {"images": [TAGGED]},
        {"images": [TAGGED, TAGGED | {"id": "img-2"}]},
    ],
}
TROUBLES: list[Any] = [
    *(
        {"error": {"code": code, "message": "m"}}
        for code in ("IMG.0009", "IMG.0023", "IMG.0027", "IMG.0057", "IMG.0060", "IMG.0087")
    ),
    {"error_code": "APIGW.0308", "error_msg": "m"},
]
PLAUSIBLE = [*itertools.chain(*SENSIBLE.values()), *TROUBLES]
STATUSES = st.sampled_from([200, 200, 200, 204, 303, 400, 401, 403, 404, 408, 429, 500, 503, 504])
REPLIES = st.one_of(
    # The number selects one of the successful responses to the call.
    st.integers(0, 5),
    st.integers(0, 5),
    st.tuples(STATUSES, st.sampled_from(PLAUSIBLE)),
    st.tuples(STATUSES | st.integers(200, 599), BODIES),
    st.builds(dropped),
)
Drawn = int | Reply | Exception


class Talk(Wire):
    """Draws a response to each request and records both."""

    def __init__(self, answers: Iterator[Drawn], import_id: str) -> None:
        self.exchanges: list[tuple[str, str, int, bytes]] = []
        self._answers = answers
        self._import_id = import_id
        super().__init__(self._next)

    def _next(self, request: requests.PreparedRequest) -> Reply | Exception:
        what = next(self._answers)
        method, url = str(request.method), str(request.url)
        if isinstance(what, Exception):
            self.exchanges.append((method, url, 0, b""))
            return what
        if isinstance(what, int):
            [sensible] = [exchange for part, exchange in SENSIBLE.items() if part in url]
            what = (200, sensible[what % len(sensible)])
        status, body = what[0], what[1]
        if not isinstance(body, bytes):
            body = json.dumps(body).replace("IMPORT", self._import_id).encode()
        self.exchanges.append((method, url, status, body))
        return status, body

    def answers_to(self, method: str, part: str = "") -> list[tuple[int, bytes]]:
        return [
            (status, body)
            for how, url, status, body in self.exchanges
            if how == method and part in url
        ]

    def posts_without_a_look(self) -> int:
        """Creates that were sent while the outcome of the previous one was unknown."""
        unknown, count = False, 0
        for method, url, status, body in self.exchanges:
            if method == "POST":
                count += unknown
                unknown = not surely_made_nothing(status, body)
            elif "/v2/cloudimages?" in url and status == 200:
                unknown = False
        return count


def surely_made_nothing(status: int, body: bytes) -> bool:
    if b"APIGW.0308" in body:
        return True
    return (400 <= status < 500 and status != 408) or status in {301, 307, 308, 503}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", now=Clock())
    ledger.migrate()
    yield ledger
    ledger.close()


class AnyResponses(Scenario):
    """A scenario whose cloud may respond with anything."""

    def __init__(self, ledger: Ledger, answers: Iterator[Drawn]) -> None:
        self.ledger, self.clock = ledger, Clock()
        ledger.imports._now = ledger.transitions._now = self.clock
        self.id = self.record()
        self.talk = Talk(answers, self.id)
        self.importer = Importer(
            records=ledger.imports,
            transitions=ledger.transitions,
            clouds=FakeClouds(client_on(self.talk)),
            cooldowns=FakeCooldowns(self.clock),
            policy=QUICK_SETTINGS,
            max_active=10_000,
            uncertain_policy="resubmit",
            now=self.clock,
        )
        self.start()

    def goes_on(self, steps: int) -> None:
        for _ in range(steps):
            if self.now.state.terminal:
                return
            self.submit() if self.now.state in {"QUEUED", "WAITING"} else self.poll()
            self.clock.now += max([timedelta(seconds=30), *self.pauses[-1:]])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=st.lists(REPLIES, min_size=1, max_size=12))
def test_every_response_of_the_cloud_is_handled(ledger: Ledger, answers: list[Drawn]) -> None:
    scenario = AnyResponses(ledger, itertools.cycle(answers))

    scenario.goes_on(30)

    end, talk = scenario.now, scenario.talk
    assert talk.posts_without_a_look() == 0
    match str(end.state):
        case "SUCCEEDED":
            status, body = talk.answers_to("GET", f"/v2/images/{end.image_id}")[-1]
            assert (status // 100, json.loads(body)["status"]) == (2, "active")
        case "FAILED":
            assert end.error is not None
            assert end.error.message
            assert end.reason
            assert why_failed(end.error.code, talk)


def why_failed(code: str, talk: Talk) -> bool:
    """Whether a response of the cloud justifies this outcome."""
    if code in {"IMAGE.gone", "JOB.lost"}:
        return any(status // 100 == 2 for status, _ in talk.answers_to("GET", "/v2/cloudimages?"))
    if code.startswith("IMAGE."):
        word = code.removeprefix("IMAGE.").encode()
        return any(word in body for _, body in talk.answers_to("GET", "/v2/images/"))
    refused = any(surely_made_nothing(*exchange) for exchange in talk.answers_to("POST"))
    return refused or any(
        status // 100 == 2 and b"FAIL" in body.upper()
        for status, body in talk.answers_to("GET", "/jobs/")
    )
