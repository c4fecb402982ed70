"""The state of the sandbox cloud: tokens, jobs, images and call counters."""

import random
import secrets
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from ims_sandbox.bucket import Keys
from ims_sandbox.cloud.faults import Fault, Faults, Kind
from ims_sandbox.cloud.files import Bucket, Flaw
from ims_sandbox.cloud.options import CloudOptions, Project, parse_options
from ims_sandbox.cloud.responses import iam_error, ims_error, unauthorized
from ims_sandbox.cloud.validation import Variant, tag_pairs

# Consecutive wrong passwords that lock a user.
TRIES: Final = 5
# Shares of a job's duration: it is INIT at first, and a bad file fails early.
_INIT_SHARE: Final = 0.1
_FLAW_SHARE: Final = 0.3


@dataclass(slots=True, kw_only=True)
class Token:
    value: str
    project: Project
    issued: float
    expires: float


@dataclass(slots=True, kw_only=True)
class Job:
    """A job; its status follows from the time alone."""

    id: str
    type: str
    image: "Image"
    begun: float
    seconds: float
    flaw: "Future[Flaw | None]"
    fail_shape: Kind = Kind.FAIL_TOP
    polls: int = 0

    def outcome(self, now: float) -> tuple[str, Flaw | None]:
        """The status and, for FAIL, the reason."""
        passed, flaw = now - self.begun, self._known_flaw()
        if flaw is not None and passed >= self.seconds * _FLAW_SHARE:
            return "FAIL", flaw
        if passed < self.seconds * _INIT_SHARE:
            return "INIT", None
        if passed < self.seconds or not self.flaw.done():
            return "RUNNING", None
        return "SUCCESS", None

    def ended_at(self) -> float:
        return self.begun + self.seconds * (_FLAW_SHARE if self._known_flaw() else 1)

    def _known_flaw(self) -> Flaw | None:
        return self.flaw.result() if self.flaw.done() else None

    def progress(self, now: float) -> float:
        return min(max((now - self.begun) / self.seconds, 0.0), 1.0) if self.seconds else 1.0


@dataclass(slots=True, kw_only=True)
class Image:
    id: str
    project: str
    body: dict[str, Any]
    tags: dict[str, str]
    created: float
    job: Job | None = None
    deleted: bool = False

    @property
    def name(self) -> str:
        return str(self.body["name"])

    def status(self, now: float) -> str:
        if self.deleted:
            return "deleted"
        status = "SUCCESS" if self.job is None else self.job.outcome(now)[0]
        return {"SUCCESS": "active", "FAIL": "killed"}.get(status, "saving")


@dataclass
class CloudState:
    """Tokens, jobs and images under one lock; the clock is injected."""

    options: CloudOptions
    now: Callable[[], float]
    faults: Faults = field(default_factory=Faults)
    lock: threading.RLock = field(default_factory=threading.RLock)
    tokens: dict[str, Token] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    peak: Counter[str] = field(default_factory=Counter)
    _running: list[Job] = field(default_factory=list)
    _wrong: Counter[str] = field(default_factory=Counter)
    _locked: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.options
        self._random = random.Random(options.seed)  # noqa: S311  # durations, no secrets
        self._file_checks = ThreadPoolExecutor(4, thread_name_prefix="files")
        keys = Keys(access_key=options.s3_access_key, secret_key=options.s3_secret_key)
        self._bucket = options.s3_endpoint and Bucket(options.s3_endpoint, keys)

    def change(self, **options: Any) -> None:
        """Change options; running jobs keep their duration."""
        with self.lock:
            self.options = parse_options(asdict(self.options) | options)

    # --- IAM --------------------------------------------------------------------------------

    def log_in(self, user: str, password: str, project: Project | None) -> Token:
        now = self.now()
        with self.lock:
            if self._locked.get(user, 0) > now:
                self.calls["refused_logins"] += 1
                raise iam_error(401, "The account is locked (IAM.0061).", "Unauthorized")
            if project is None or (project.user, project.password) != (user, password):
                self._refuse_login(user, now)
            self._wrong[user] = 0
            self.calls["logins"] += 1
            token = Token(
                value="MII" + secrets.token_urlsafe(300),
                project=project,
                issued=now,
                expires=now + self.options.token_seconds,
            )
            self.tokens[token.value] = token
        return token

    def _refuse_login(self, user: str, now: float) -> NoReturn:
        self.calls["refused_logins"] += 1
        self._wrong[user] += 1
        if self._wrong[user] >= TRIES:
            self._locked[user] = now + self.options.lock_seconds
            self._wrong[user] = 0
        raise iam_error(401, "The username or password is wrong (IAM.0062).", "Unauthorized")

    def token(self, value: str | None) -> Token:
        """The token if it is valid; otherwise raises 401."""
        with self.lock:
            token = self.tokens.get(value or "")
        if token is None or token.expires <= self.now():
            raise unauthorized()
        return token

    def revoke(self) -> int:
        """Revoke all tokens, as after a change of password or rights."""
        with self.lock:
            count = len(self.tokens)
            self.tokens.clear()
        return count

    # --- IMS --------------------------------------------------------------------------------

    def create(
        self, project: str, variant: Variant, body: dict[str, Any], fault: Fault | None
    ) -> str:
        """Create a job and its image; a thread checks the file meanwhile."""
        now = self.now()
        with self.lock:
            self._admit(project, body, now)
            image = Image(
                id=str(uuid.uuid4()),
                project=project,
                body=body,
                tags=tag_pairs(body),
                created=now,
            )
            image.job = job = Job(
                id=uuid.uuid4().hex,
                type=variant.job_type,
                image=image,
                begun=now,
                seconds=self._random.uniform(*self.options.job_seconds),
                flaw=self._check_file(body, fault),
                fail_shape=fault.kind if fault else Kind.FAIL_TOP,
            )
            self.jobs[job.id] = job
            self._running.append(job)
            self.images[image.id] = image
            self.calls["creates"] += 1
            self.peak[project] = max(self.peak[project], self.active(project, now))
        return job.id

    def _admit(self, project: str, body: dict[str, Any], now: float) -> None:
        if self.active(project, now) >= self.options.max_active:
            raise ims_error("IMG.0060", "The number of tasks exceeds the flow control limit.")
        if self.options.quota is not None and self.quota_used(project, now) >= self.options.quota:
            raise ims_error("IMG.0015", "The private image quota is used up.")
        if self.options.unique_names and any(
            image.project == project
            and image.name == body["name"]
            and image.status(now) in ("active", "saving")
            for image in self.images.values()
        ):
            raise ims_error("IMG.0009", "The image name already exists.")

    def quota_used(self, project: str, now: float) -> int:
        """The number of the project's images that count against its quota."""
        return sum(
            image.project == project and image.status(now) == "active"
            for image in self.images.values()
        )

    def _check_file(self, body: dict[str, Any], fault: Fault | None) -> "Future[Flaw | None]":
        if fault is None and self._bucket:
            return self._file_checks.submit(
                self._bucket.flaw_of, body["image_url"], body["min_disk"]
            )
        decided: Future[Flaw | None] = Future()
        decided.set_result(Flaw(fault.code, fault.message) if fault else None)
        return decided

    def active(self, project: str, now: float) -> int:
        # Drop ended jobs here: thousands of them would make each create slower.
        self._running = [job for job in self._running if job.outcome(now)[0] in ("INIT", "RUNNING")]
        return sum(job.image.project == project for job in self._running)

    def job(self, project: str, job_id: str) -> Job:
        with self.lock:
            job = self.jobs.get(job_id)
            if job is None or job.image.project != project:
                raise ims_error("IMG.0023", "An exception occurred during the task query.")
            job.polls += 1
        return job

    def image(self, project: str, image_id: str) -> Image:
        with self.lock:
            image = self.images.get(image_id)
        if image is None or image.project != project or not self.listed(image):
            raise ims_error("IMG.0027", "The image does not exist.", status=404)
        return image

    def listed(self, image: Image) -> bool:
        now = self.now()
        status = image.status(now)
        if status == "deleted" or (status == "killed" and not self.options.leave_killed):
            return False
        return now - image.created >= self.options.image_visible_after

    def delete(self, project: str, image_id: str) -> None:
        image = self.image(project, image_id)
        if image.status(self.now()) == "saving":
            raise ims_error("IMG.0090", "The image being created cannot be deleted.")
        image.deleted = True

    # --- reports ----------------------------------------------------------------------------

    def report(self) -> dict[str, object]:
        """The response of `GET /admin/books`."""
        now = self.now()
        with self.lock:
            return {
                "logins": self.calls["logins"],
                "refused_logins": self.calls["refused_logins"],
                "creates": self.calls["creates"],
                "calls": dict(self.calls),
                "faults": dict(self.faults.occurred),
                "peak_active": dict(self.peak),
                "jobs": [_job_report(job, now) for job in self.jobs.values()],
                "images": [_image_report(image, now) for image in self.images.values()],
                "options": _public(self.options),
            }

    def reset(self) -> None:
        """Remove all jobs, images, counters and faults; tokens stay valid."""
        with self.lock:
            self._running.clear()
            for part in (self.jobs, self.images, self.calls, self.peak, self.faults.occurred):
                part.clear()
            self.faults.clear()

    def close(self) -> None:
        self._file_checks.shutdown(wait=False, cancel_futures=True)


def _job_report(job: Job, now: float) -> dict[str, object]:
    return {
        **_image_report(job.image, now),
        "id": job.id,
        "image_id": job.image.id,
        "status": job.outcome(now)[0],
        "polls": job.polls,
        "ends_at": datetime.fromtimestamp(job.ended_at(), UTC).isoformat(),
    }


def _image_report(image: Image, now: float) -> dict[str, object]:
    return {
        "id": image.id,
        "name": image.name,
        "project": image.project,
        "import_id": image.tags.get("ims-import-id", ""),
        "status": image.status(now),
    }


def _public(options: CloudOptions) -> dict[str, object]:
    secret = {"password", "s3_secret_key", "other_projects"}
    return {name: value for name, value in asdict(options).items() if name not in secret}
