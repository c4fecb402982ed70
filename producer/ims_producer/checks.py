"""What can be wrong with an installation: one check for each part, each with how to mend it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from ims_config.names import CHECK_CLOUD, CHECK_WATCH, QUEUES
from ims_config.records import ErrorClass
from ims_config.settings import BrokerSettings
from ims_config.worker_reports import (
    BucketRulesReport,
    CloudError,
    CloudReport,
    ImageQuota,
    WorkerReply,
)
from ims_ledger import LedgerOutdated, LedgerUnavailable
from ims_producer.client import Client

PING_S: Final = 2.0
CLOUD_ANSWER_S: Final = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found about one part. `fix` says what to do where `ok` is not True.

    `ok` is None for what could not be checked because something else is missing.
    """

    name: str
    ok: bool | None
    found: str
    fix: str = ""
    about: str = "reach"
    """`reach` of a service, or `credentials`."""


def run_checks(client: Client, *, clouds: Sequence[str | None], migrate: bool) -> Iterator[Check]:
    """Check everything an import needs, one part after the other."""
    settings = client.settings
    redis = check_redis(settings)
    yield redis
    broker = redis if settings.broker == settings.redis else check_broker(client)
    if broker is not redis:
        yield broker
    yield check_ledger(client, migrate=migrate)
    workers = check_workers(client) if broker.ok else _unasked("workers", "the broker is gone")
    yield workers
    for cloud in clouds:
        yield from _check_cloud(client, cloud, able=bool(workers.ok and redis.ok))
    if workers.ok and redis.ok:
        yield from _check_watch(client)


def check_redis(settings: BrokerSettings) -> Check:
    where = address(settings.redis)
    try:
        with Redis.from_url(settings.redis, socket_timeout=3, socket_connect_timeout=3) as redis:
            redis.ping()
            policy = _policy(redis)
    except (RedisError, OSError, ValueError) as exc:
        return Check(
            name="redis",
            ok=False,
            found=f"{where}: {exc}",
            fix="Start Redis or Valkey, or set IMS_IMPORT_REDIS_URL=redis://:PASSWORD@HOST:6379/0",
        )
    if policy not in ("noeviction", None):
        return Check(
            name="redis",
            ok=False,
            found=f"{where} answers, but throws keys away when full (maxmemory-policy {policy})",
            fix="Set maxmemory-policy noeviction: messages would be lost.",
        )
    return Check(name="redis", ok=True, found=f"{where} answers")


def _policy(redis: Redis) -> str | None:
    try:
        return str(redis.config_get("maxmemory-policy").get("maxmemory-policy"))
    except RedisError:
        # Managed servers often refuse CONFIG.
        return None


def check_broker(client: Client) -> Check:
    where = address(client.settings.broker)
    try:
        with client.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
    except (OperationalError, OSError) as exc:
        return Check(
            name="broker",
            ok=False,
            found=f"{where}: {exc}",
            fix="Start the broker, or correct IMS_IMPORT_BROKER_URL.",
        )
    return Check(name="broker", ok=True, found=f"{where} answers")


def check_ledger(client: Client, *, migrate: bool) -> Check:
    where = address(client.settings.ledger)
    outdated = Check(
        name="ledger",
        ok=False,
        found=f"{where}: its tables are missing or of another version",
        fix="ims-import doctor --migrate",
    )
    try:
        if migrate:
            client.ledger.migrate()
        if not client.ledger.is_current():
            return outdated
        counts = client.ledger.imports.counts()
    except LedgerOutdated:
        return outdated
    except (LedgerUnavailable, OSError) as exc:
        return Check(
            name="ledger",
            ok=False,
            found=f"{where}: {exc}",
            fix="Start the database, or correct IMS_IMPORT_LEDGER_URL.",
        )
    known = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return Check(name="ledger", ok=True, found=f"{where} is up to date ({known or 'empty'})")


def check_workers(client: Client) -> Check:
    try:
        active = client.celery.control.inspect(timeout=PING_S).active_queues() or {}
    except (OperationalError, RedisError, OSError) as exc:
        return Check(name="workers", ok=False, found=str(exc), fix="Mend the broker first.")
    served = {queue["name"] for queues in active.values() for queue in queues}
    missing = [queue for queue in QUEUES if queue not in served]
    if not active:
        return Check(
            name="workers",
            ok=False,
            found="none is online",
            fix="Start one where the credentials are: ims-import worker",
        )
    names = ", ".join(sorted(active))
    if missing:
        return Check(
            name="workers",
            ok=False,
            found=f"{names}; nobody takes from {', '.join(missing)}",
            fix="Start a worker without -Q, or with these queues.",
        )
    return Check(name="workers", ok=True, found=f"{len(active)} online: {names}")


def _check_watch(client: Client) -> Iterator[Check]:
    """What a worker says of its watch rules; nothing where there are none."""
    try:
        sent = client.celery.send_task(CHECK_WATCH, expires=CLOUD_ANSWER_S)
        reply = WorkerReply[BucketRulesReport].model_validate(sent.get(timeout=CLOUD_ANSWER_S))
    except (ResultTimeout, OperationalError, RedisError, OSError) as exc:
        yield _unasked("watch rules", f"no worker said how they stand ({type(exc).__name__})")
        return
    for rule in reply.report.rules if reply.report else ():
        name = f"watch rule {rule.rule}" if rule.rule else "watch rules"
        if rule.problem is not None:
            yield Check(
                name=name,
                ok=False,
                found=rule.problem,
                fix="Correct IMS_IMPORT_WATCH_FILE or IMS_IMPORT_OBS_… of the workers.",
            )
        else:
            yield Check(name=name, ok=True, found=f"{rule.location} can be listed")


def _check_cloud(client: Client, cloud: str | None, *, able: bool) -> Iterator[Check]:
    shown = f"cloud {cloud}" if cloud else "default cloud"
    if not able:
        yield _unasked(shown, "only a worker can say")
        return
    try:
        sent = client.celery.send_task(CHECK_CLOUD, [cloud], expires=CLOUD_ANSWER_S)
        reply = WorkerReply[CloudReport].model_validate(sent.get(timeout=CLOUD_ANSWER_S))
    except ResultTimeout:
        yield Check(
            name=shown,
            ok=False,
            found=f"no worker answered within {CLOUD_ANSWER_S:.0f} s",
            fix="Look at the workers' logs.",
        )
        return
    except (OperationalError, RedisError, OSError) as exc:
        yield Check(name=shown, ok=False, found=str(exc), fix="Look at the workers' logs.")
        return
    if reply.report is not None:
        yield from judge_cloud(shown, reply.report)
    elif reply.error is not None:
        yield _problem(shown, reply.error)


def judge_cloud(shown: str, report: CloudReport) -> Iterator[Check]:
    """What a worker reports about a cloud: login, shared token, quota."""
    if report.login_error is not None:
        yield _problem(f"{shown}, login", report.login_error)
        yield _unasked(f"{shown}, quota", "the login is refused")
        return
    where = f"{report.user or '?'} in project {report.project or '?'} at {report.auth_url}"
    if report.shared_token:
        yield Check(name=f"{shown}, login", ok=True, found=where)
    else:
        yield Check(
            name=f"{shown}, login",
            ok=False,
            found=f"{where}, but each process logs in for itself",
            fix="Give the workers one IMS_IMPORT_SECRET_KEY; make one: python -c 'from "
            "cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'",
        )
    if report.quota is not None:
        yield _judge_quota(f"{shown}, quota", report.quota)
    elif report.quota_error is not None:
        yield _problem(f"{shown}, quota", report.quota_error)
    else:
        yield _unasked(f"{shown}, quota", "the worker did not say")


def _judge_quota(name: str, quota: ImageQuota) -> Check:
    found = f"{quota.used} of {quota.limit} private images used"
    if quota.used < quota.limit:
        return Check(name=name, ok=True, found=found)
    return Check(
        name=name, ok=False, found=found, fix="Delete images or ask the cloud for more quota."
    )


def _problem(name: str, error: CloudError) -> Check:
    failure = error.failure
    return Check(
        name=name,
        ok=False,
        found=f"{failure.code}: {failure.message}",
        fix=failure.hint,
        about="credentials" if failure.error_class is ErrorClass.AUTH else "reach",
    )


def _unasked(name: str, why: str) -> Check:
    return Check(name=name, ok=None, found=f"not checked: {why}")


def address(url: str) -> str:
    """Where a URL points, without user, password and query."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
