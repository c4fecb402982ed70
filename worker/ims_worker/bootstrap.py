"""Builds the services of a worker process: importer, ledger, clouds, schedule."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from ims_config.settings import BrokerSettings, WorkerSettings
from ims_ledger import Ledger, open_ledger
from ims_worker.adapters.obs import ObjectStorage
from ims_worker.adapters.otc.clouds import OpenStackClouds
from ims_worker.adapters.public_http import AllowList
from ims_worker.adapters.redis.cooldowns import RedisCooldowns
from ims_worker.adapters.redis.leadership import Leadership
from ims_worker.adapters.redis.leases import Leases
from ims_worker.adapters.redis.schedule import DueSchedule
from ims_worker.decisions import PollingPolicy
from ims_worker.importer import Importer


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the tasks and the scheduler of one worker process use."""

    settings: WorkerSettings
    ledger: Ledger
    due: DueSchedule
    leases: Leases
    leadership: Leadership
    clouds: OpenStackClouds
    importer: Importer
    allowed_receivers: AllowList
    """Non-public hosts that webhooks may reach."""
    storage: ObjectStorage
    redis: Redis


def connect_redis(settings: BrokerSettings) -> Redis:
    """A client with short timeouts, so that no task hangs when Redis is down."""
    return Redis.from_url(
        settings.redis,
        socket_timeout=5,
        socket_connect_timeout=3,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )


def polling_policy(settings: WorkerSettings) -> PollingPolicy:
    return PollingPolicy(
        first=settings.poll_first_s,
        longest=settings.poll_max_s,
        settle=settings.settle_s,
        deadline=settings.deadline_s,
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


def build(settings: WorkerSettings) -> Services:
    """Build the real services; tests build their own Importer."""
    ledger = open_ledger(settings.ledger)
    redis = connect_redis(settings)
    clouds = OpenStackClouds(settings, redis)
    importer = Importer(
        records=ledger.imports,
        transitions=ledger.transitions,
        clouds=clouds,
        cooldowns=RedisCooldowns(redis),
        policy=polling_policy(settings),
        max_active=settings.max_active_per_project,
        uncertain_policy=settings.uncertain_policy,
        now=utc_now,
    )
    return Services(
        settings=settings,
        ledger=ledger,
        due=DueSchedule(redis, lease=settings.stale_after_s),
        leases=Leases(redis, duration=settings.stale_after_s),
        leadership=Leadership(redis),
        clouds=clouds,
        importer=importer,
        allowed_receivers=AllowList(settings.webhook_allow),
        storage=ObjectStorage(settings),
        redis=redis,
    )


@cache
def services() -> Services:
    """The services of this process, built at first use, so never before a fork."""
    return build(WorkerSettings())
