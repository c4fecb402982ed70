"""The real IMS client on the core of the sandbox cloud: IMS for unit tests, without sockets."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import requests
from ims_client import IMS_URL, NOON, PROJECT, Reply, Wire, dropped, log_in, session_on

from ims_config.import_request import ImportRequest
from ims_config.records import ErrorClass, Failure, ImageFacts
from ims_sandbox.cloud.api import Api, Request, parse_address
from ims_sandbox.cloud.faults import Dropped, Fault, Kind
from ims_sandbox.cloud.options import CloudOptions
from ims_sandbox.cloud.state import CloudState, Flaw, Image, Job
from ims_worker.adapters.otc.auth import SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.ims import ImsService
from ims_worker.errors import CloudProblem, LoginRefused
from ims_worker.ports import ImageId, JobId

# Long compared to what the clock of a test moves: polls alone advance a job.
STEP_S = timedelta(days=1000).total_seconds()


@dataclass
class PolledCloud(CloudState):
    """A cloud whose jobs end after a number of polls, whatever the clock says."""

    polls_per_job: int = 2

    def create(self, *args: Any) -> str:
        job_id = super().create(*args)
        self.jobs[job_id].seconds = self.polls_per_job * STEP_S
        return job_id

    def job(self, project: str, job_id: str) -> Job:
        job = super().job(project, job_id)
        if job.polls > 1:
            job.begun -= STEP_S
        return job


class SimulatedIms(ImsService):
    """The IMS client of a project in a cloud whose future a test decides."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: NOON) -> None:
        options = CloudOptions(
            project_id=PROJECT,
            region="eu-de",
            show_percent=False,
            leave_killed=False,
        )
        self.state = PolledCloud(options, lambda: now().timestamp())
        self.wire = Wire(self._respond)
        self._api = Api(self.state)
        self._next_problem: CloudProblem | None = None
        self._statuses: dict[str, str] = {}
        self._logins_refused = False
        token = SharedToken(self._log_in, None, now=now)
        super().__init__(session_on(self.wire), SharedTokenAuth(token), region="eu-de", now=now)

    # --- what happened ----------------------------------------------------------------------

    @property
    def creates(self) -> int:
        """All create requests, whatever became of them."""
        return self.state.calls["create"]

    @property
    def images(self) -> dict[str, Image]:
        """The images that the cloud lists, oldest first."""
        return {id_: image for id_, image in self.state.images.items() if self.state.listed(image)}

    # --- what happens next ------------------------------------------------------------------

    def refuse_next_create(self, code: str = "IMG.0024") -> None:
        """IMS answers the next create with 400 and this code."""
        self._fault(Kind.REFUSED, "create", code=code, message="refused")

    def throttle_next_create(self, retry_after_s: float) -> None:
        """The gateway answers the next create with 429."""
        self._fault(Kind.THROTTLED, "create", seconds=retry_after_s)

    def raise_on_next_create(self, problem: CloudProblem) -> None:
        """The next create raises this before it reaches the cloud."""
        self._next_problem = problem

    def lose_next_response(self, *, created: bool) -> None:
        """The connection of the next create closes after or before IMS has handled it."""
        self._fault(Kind.DROP_AFTER if created else Kind.DROP_BEFORE, "create")

    def fail_next_job(
        self,
        code: str = "IMG.0057",
        message: str = "The image file is empty or in incorrect format.",
    ) -> None:
        """The job of the next create ends as FAIL and leaves no image."""
        self._fault(Kind.FAIL_TOP, "create", code=code, message=message)

    def fail_next_call(self, kind: Kind = Kind.TIMEOUT_AFTER, seconds: float = 1.0) -> None:
        """The next call of any kind has this fault."""
        self._fault(kind, seconds=seconds)

    def answer(self, reply: Reply | Exception) -> None:
        """From now on, something else than IMS answers every call, or nothing does."""
        self.wire.reply = lambda _: reply

    def refuse_logins(self) -> None:
        """The password has changed: IMS refuses the token, and IAM the login."""
        self._logins_refused = True
        self.answer((401, {"error_code": "APIGW.0301", "error_msg": "Incorrect IAM token."}))

    def answer_again(self) -> None:
        """IMS itself answers again."""
        self._logins_refused = False
        self.wire.reply = self._respond

    def end_jobs(self, *, failed: bool = False) -> None:
        """All jobs end now."""
        for job in self.state.jobs.values():
            job.seconds = 0
            if failed:
                job.flaw = Future()
                job.flaw.set_result(Flaw("IMG.0057", "The image file is empty."))

    def forget_jobs(self) -> None:
        """IMS no longer knows any job."""
        self.state.jobs.clear()

    # --- images of other origin or fate -----------------------------------------------------

    def add_image(self, name: str, *, image_url: str, **tags: str) -> str:
        """An active image that somebody else created."""
        body = {"name": name, "image_url": image_url, "min_disk": 40}
        image = Image(
            id=str(uuid4()),
            project=PROJECT,
            body=body,
            tags=tags,
            created=self.state.now(),
        )
        self.state.images[image.id] = image
        return image.id

    def finish(self, image_id: str) -> None:
        """The image becomes active without its job."""
        self.state.images[image_id].job = None

    def report_status(self, image_id: str, status: str) -> None:
        """IMS reports this status of the image from now on."""
        self._statuses[image_id] = status

    # --- inside -----------------------------------------------------------------------------

    def create_image(self, request: ImportRequest, *, import_id: str) -> JobId:
        problem, self._next_problem = self._next_problem, None
        if problem is not None:
            raise problem
        return super().create_image(request, import_id=import_id)

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        image = super().read_image(image_id)
        status = self._statuses.get(image_id)
        return image.model_copy(update={"status": status}) if image and status else image

    def _fault(self, kind: Kind, call: str = "*", **options: Any) -> None:
        self.state.faults.add(Fault(kind=kind, call=call, **options))

    def _log_in(self) -> str:
        if self._logins_refused:
            failure = Failure(
                code="IAM.0001",
                message="The username or password is wrong.",
                error_class=ErrorClass.AUTH,
                hint="Correct it, then run: ims-import resume",
            )
            raise LoginRefused(failure, tried="POST /v3/auth/tokens (HTTP 401)")
        reply = log_in(self._api)
        return json.dumps(
            {"auth_token": reply.headers["X-Subject-Token"], "body": json.loads(reply.content)}
        )

    def _respond(self, request: requests.PreparedRequest) -> Reply | Exception:
        path, query = parse_address(str(request.path_url))
        body = request.body or b""
        try:
            reply = self._api.respond(
                Request(
                    method=str(request.method),
                    path=path,
                    query=query,
                    headers=request.headers,
                    body=body if isinstance(body, bytes) else body.encode(),
                    url=IMS_URL,
                )
            )
        except Dropped:
            return dropped()
        return reply.status, reply.content, dict(reply.headers)
