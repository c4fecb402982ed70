"""The checks of `ims-import doctor`, run where the ledger is: by a direct client or by the API.

Checks that need cloud credentials are sent to a worker as tasks.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from celery import Celery
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from ims_config.names import CHECK_CLOUD, CHECK_WATCH, QUEUES
from ims_config.records import ErrorClass
from ims_config.settings import PREFIX, LedgerSettings
from ims_config.worker_reports import (
    BucketRulesReport,
    CloudError,
    CloudReport,
    ImageQuota,
    WorkerReply,
)
from ims_ledger import Ledger, LedgerNotCurrent, LedgerOutdated, LedgerUnavailable
from ims_producer.errors import LEDGER_OPTIONS

PING_S: Final = 2.0
CLOUD_REPLY_S: Final = 45.0
_QUEUE_ERRORS: Final = (OperationalError, RedisError, OSError)

OpenLedger = Callable[[], Ledger]
# The id of the ledger that the workers use; may raise RedisError.
CurrentLedger = Callable[[], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result for one part. `ok` is None if the check depends on a part that failed."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""
    about: Literal["reach", "credentials"] = "reach"


def _passed(name: str, found: str) -> Check:
    return Check(name=name, ok=True, found=found)


def _failed(name: str, found: str, fix: str) -> Check:
    return Check(name=name, ok=False, found=found, fix=fix)


def _skipped(name: str, reason: str) -> Check:
    return Check(name=name, ok=None, found=f"not checked: {reason}")


def run_checks(
    settings: LedgerSettings,
    celery: Celery,
    open_ledger: OpenLedger,
    current_ledger: CurrentLedger,
    *,
    clouds: Sequence[str],
    migrate: bool,
) -> Iterator[Check]:
    """Check each part that an import needs; `migrate` upgrades the tables of the ledger."""
    redis = check_redis(settings.redis)
    yield redis
    broker = redis
    if settings.broker != settings.redis:
        broker = check_broker(settings.broker, celery)
        yield broker
    ledger = check_ledger(settings.ledger, open_ledger, migrate=migrate)
    yield ledger
    yield check_polls(open_ledger) if ledger.ok else _skipped("polls", "the ledger failed")
    if ledger.ok and redis.ok:
        yield check_current_ledger(open_ledger, current_ledger)
    else:
        yield _skipped("current ledger", "this needs the ledger and Redis")
    workers = check_workers(celery) if broker.ok else _skipped("workers", "the broker failed")
    yield workers
    for cloud in clouds or (None,):
        name = f"cloud {cloud}" if cloud else "default cloud"
        if workers.ok and redis.ok:
            yield from _check_cloud(celery, name, cloud)
        else:
            yield _skipped(name, "this needs Redis and a worker")
    if workers.ok and redis.ok:
        yield from _check_bucket_rules(celery)


def check_redis(url: str) -> Check:
    location = _public_url(url)
    try:
        with Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as redis:
            redis.ping()
            policy = _eviction_policy(redis)
    except (RedisError, OSError, ValueError) as exc:
        fix = f"Start Redis or Valkey, or set {PREFIX}REDIS_URL=redis://:PASSWORD@HOST:6379/0"
        return _failed("redis", f"{location}: {exc}", fix)
    if policy not in ("noeviction", None):
        found = f"{location} answers, but evicts keys when full (maxmemory-policy {policy})"
        fix = "Set maxmemory-policy noeviction; otherwise messages can be lost."
        return _failed("redis", found, fix)
    return _passed("redis", f"{location} answers")


def _eviction_policy(redis: Redis) -> str | None:
    try:
        return str(redis.config_get("maxmemory-policy").get("maxmemory-policy"))
    except RedisError:
        # Managed servers often refuse CONFIG.
        return None


def check_broker(url: str, celery: Celery) -> Check:
    location = _public_url(url)
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
    except (OperationalError, OSError) as exc:
        fix = f"Start the broker, or correct {PREFIX}BROKER_URL."
        return _failed("broker", f"{location}: {exc}", fix)
    return _passed("broker", f"{location} answers")


def check_ledger(url: str, open_ledger: OpenLedger, *, migrate: bool) -> Check:
    location = _public_url(url)
    try:
        ledger = open_ledger()
        if migrate:
            ledger.migrate()
        counts = ledger.imports.counts() if ledger.is_current() else None
    except LedgerOutdated:
        counts = None
    except (LedgerUnavailable, OSError) as exc:
        fix = f"Start the database, or correct {PREFIX}LEDGER_URL."
        return _failed("ledger", f"{location}: {exc}", fix)
    if counts is None:
        found = f"{location}: its tables are missing or of another version"
        return _failed("ledger", found, "Run: ims-import doctor --migrate")
    imports = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return _passed("ledger", f"{location} is up to date ({imports or 'empty'})")


def check_polls(open_ledger: OpenLedger) -> Check:
    """Whether the last poll of every import succeeded; otherwise, the most frequent cause."""
    try:
        errors = [e for each in open_ledger().imports.with_poll_errors() if (e := each.poll_error)]
    except (LedgerUnavailable, OSError) as exc:
        return _skipped("polls", str(exc))
    if not errors:
        return _passed("polls", "no poll fails")
    causes = Counter(error.code for error in errors).most_common()
    worst = min((e for e in errors if e.code == causes[0][0]), key=lambda error: error.since)
    others = ", ".join(f"{count} {code}" for code, count in causes[1:])
    found = f"imports: {len(errors)}, {worst}" + (f" (also {others})" if others else "")
    check = _failed("polls", found, worst.hint)
    refused = worst.error_class is ErrorClass.AUTH
    return replace(check, about="credentials") if refused else check


def check_current_ledger(open_ledger: OpenLedger, current_ledger: CurrentLedger) -> Check:
    """Whether the workers use this ledger."""
    name = "current ledger"
    try:
        own, current = open_ledger().id, current_ledger()
    except (LedgerUnavailable, RedisError) as exc:
        return _skipped(name, str(exc))
    if current is None:
        return _skipped(name, f"no worker has published its ledger; this one is {own}")
    if current != own:
        return _failed(name, str(LedgerNotCurrent(own, current)), f"{LEDGER_OPTIONS}.")
    return _passed(name, f"the workers use this ledger, {own}")


def check_workers(celery: Celery) -> Check:
    try:
        active = celery.control.inspect(timeout=PING_S).active_queues() or {}
    except _QUEUE_ERRORS as exc:
        return _failed("workers", str(exc), "Fix the broker first.")
    if not active:
        fix = "Start one on a host with the credentials: ims-import worker"
        return _failed("workers", "none is online", fix)
    names = ", ".join(sorted(active))
    served = {queue["name"] for queues in active.values() for queue in queues}
    if unserved := [queue for queue in QUEUES if queue not in served]:
        found = f"{names}; no worker consumes {', '.join(unserved)}"
        return _failed("workers", found, "Start a worker without -Q, or with these queues.")
    return _passed("workers", f"{len(active)} online: {names}")


# --- checks that a worker executes ----------------------------------------------------------


def _ask_worker(celery: Celery, task: str, *arguments: str | None) -> object:
    sent = celery.send_task(task, arguments, expires=CLOUD_REPLY_S)
    return sent.get(timeout=CLOUD_REPLY_S)


def _check_bucket_rules(celery: Celery) -> Iterator[Check]:
    """One check for each bucket rule; none without rules."""
    try:
        reply = WorkerReply[BucketRulesReport].model_validate(_ask_worker(celery, CHECK_WATCH))
    except (ResultTimeout, *_QUEUE_ERRORS) as exc:
        yield _skipped("watch rules", f"no worker answered ({type(exc).__name__})")
        return
    for rule in reply.report.rules if reply.report else ():
        name = f"watch rule {rule.rule}" if rule.rule else "watch rules"
        if rule.problem is None:
            yield _passed(name, f"{rule.location} can be listed")
        else:
            fix = f"Correct {PREFIX}WATCH_FILE or {PREFIX}OBS_… of the workers."
            yield _failed(name, rule.problem, fix)


def _check_cloud(celery: Celery, name: str, cloud: str | None) -> Iterator[Check]:
    try:
        reply = WorkerReply[CloudReport].model_validate(_ask_worker(celery, CHECK_CLOUD, cloud))
    except (ResultTimeout, *_QUEUE_ERRORS) as exc:
        late = isinstance(exc, ResultTimeout)
        found = f"no worker answered within {CLOUD_REPLY_S:.0f} s" if late else str(exc)
        yield _failed(name, found, "Read the logs of the workers.")
        return
    if reply.error is not None:
        yield _cloud_error(name, reply.error)
    elif reply.report is not None:
        yield from _cloud_checks(name, reply.report)


def _cloud_checks(name: str, report: CloudReport) -> Iterator[Check]:
    """Login and quota of a cloud, and whether the workers share one token."""
    login, quota = f"{name}, login", f"{name}, quota"
    if report.login_error is not None:
        yield _cloud_error(login, report.login_error)
        yield _skipped(quota, "the login failed")
        return
    identity = f"{report.user or '?'} in project {report.project or '?'} at {report.auth_url}"
    if report.shared_token:
        yield _passed(login, identity)
    else:
        fix = (
            f"Give all workers the same {PREFIX}SECRET_KEY; generate one: python -c 'from "
            "cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
        )
        yield _failed(login, f"{identity}, but each process logs in separately", fix)
    if report.quota_error is not None:
        yield _cloud_error(quota, report.quota_error)
    elif report.quota is None:
        yield _skipped(quota, "the worker did not report it")
    else:
        yield _quota(quota, report.quota)


def _quota(name: str, quota: ImageQuota) -> Check:
    found = f"{quota.used} of {quota.limit} private images used"
    if quota.used < quota.limit:
        return _passed(name, found)
    return _failed(name, found, "Delete images, or request a higher quota.")


def _cloud_error(name: str, error: CloudError) -> Check:
    failure = error.failure
    check = _failed(name, f"{failure.code}: {failure.message}", failure.hint)
    refused = failure.error_class is ErrorClass.AUTH
    return replace(check, about="credentials") if refused else check


def _public_url(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
