"""Every setting of ims-import, read from `IMS_IMPORT_*` variables and secret files."""

import os
import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "IMS_IMPORT_"
# Where containers get secrets as files; a service without containers may have a folder of its own.
_USUAL_SECRETS_DIR = Path("/run/secrets")


def secrets_dir() -> Path | None:
    """The folder of secret files; one that was named but is missing is warned of by pydantic."""
    if named := os.environ.get(f"{PREFIX}SECRETS_DIR"):
        return Path(named)
    return _USUAL_SECRETS_DIR if _USUAL_SECRETS_DIR.is_dir() else None


def default_ledger_url() -> str:
    """An SQLite file of the user's own, so that a first run needs no configuration."""
    return f"sqlite:///{Path.home() / '.local' / 'state' / 'ims-import' / 'ledger.db'}"


Seconds = Annotated[float, Field(gt=0)]


def _pauses_are_numbers(text: str) -> str:
    if not all(re.fullmatch(r"\s*\d{1,6}(\.\d+)?\s*", part) for part in text.split(",")):
        raise ValueError("must be seconds, separated by commas, e.g. 5,60,300")
    return text


class Settings(BaseSettings):
    """Settings of a producer or worker process.

    A variable `IMS_IMPORT_REDIS_URL` wins over a file `/run/secrets/ims_import_redis_url`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        secrets_dir=secrets_dir(),
        extra="ignore",
        frozen=True,
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey: shared token, due schedule, leases, live progress.",
    )
    broker_url: SecretStr | None = Field(
        None, description="Celery's broker; without it exactly `REDIS_URL`."
    )
    result_backend: SecretStr | None = Field(
        None, description="Celery's result backend; without it exactly `REDIS_URL`."
    )
    ledger_url: SecretStr = Field(
        default_factory=lambda: SecretStr(default_ledger_url()),
        description="SQLAlchemy URL of the ledger: SQLite, or `postgresql+psycopg://…`.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Fernet key that encrypts the cached token; several, separated by commas, "
        "for rotation (the first encrypts).",
    )
    default_queue: str = Field(
        "celery",
        description="Queue in which `ims.import_image` arrives from apps that name none; empty "
        "if other apps' workers take their own tasks from it on the same broker.",
    )
    poll_first_s: Seconds = Field(
        12.0, description="Pause after the first look at a job, in seconds."
    )
    poll_max_s: Seconds = Field(60.0, description="Longest pause between two looks, in seconds.")
    max_active_per_project: int = Field(
        35, ge=1, description="Jobs of ours active at once in one project; IMS allows 40."
    )
    sweep_every_s: Seconds = Field(
        10.0, description="Seconds between two comparisons of the ledger with the schedule."
    )
    stale_after_s: Seconds = Field(
        20.0,
        description="Seconds after which an import that no living worker holds is taken up again.",
    )
    settle_s: Seconds = Field(
        300.0,
        description="Seconds to look for the image of a request whose answer was lost, before "
        "the request counts as not received.",
    )
    uncertain_policy: Literal["resubmit", "ask"] = Field(
        "resubmit", description="What follows when nothing was found after `SETTLE_S`."
    )
    deadline_s: Seconds = Field(
        21600.0, description="Seconds after which an import is flagged overdue; it goes on."
    )
    retention_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Days after which imports that ended are forgotten; never without it."
    )
    job_api: Literal["status", "progress"] = Field(
        "status",
        description="How a job is read: `status` is GET /v1/{project}/jobs/{id}, `progress` is "
        "GET /v1/cloudimages/job/{id}.",
    )
    connect_timeout_s: Seconds = Field(
        3.05, description="Seconds to wait for a connection to the cloud."
    )
    read_timeout_s: Seconds = Field(
        30.0, description="Seconds to wait for the cloud's answer on an open connection."
    )
    alive_file: Path | None = Field(
        None, description="A file the worker touches while it lives, for a cheap health check."
    )
    watch_file: Path | None = Field(
        None, description="YAML file of watch rules; a worker imports what lands in their buckets."
    )
    watch_every_s: Seconds = Field(
        60.0, description="Seconds between two listings of the buckets that are watched."
    )
    obs_endpoint: str = Field(
        "https://obs.eu-de.otc.t-systems.com",
        description="S3 address of the object storage that is watched.",
    )
    obs_access_key: SecretStr | None = Field(
        None, description="Access key (AK) for listing buckets that are watched."
    )
    obs_secret_key: SecretStr | None = Field(
        None, description="Secret key (SK) for listing buckets that are watched."
    )
    obs_addressing: Literal["virtual", "path"] = Field(
        "virtual",
        description="Where the bucket stands in an address: OBS wants it in the host name, MinIO "
        "and Ceph usually in the path.",
    )
    smn_topics: str = Field(
        "",
        description="URNs of SMN topics, separated by commas, whose news of objects the HTTP API "
        "takes.",
    )
    smn_hosts: str = Field(
        "smn.eu-de.otc.t-systems.com,smn.eu-nl.otc.t-systems.com,smn.eu-ch2.sc.otc.t-systems.com",
        description="Hosts that SMN's certificates and confirmations may be at.",
    )
    webhook_allow: str = Field(
        "",
        description="Addresses that webhooks may reach although they are not public: networks, "
        "addresses and host names, separated by commas.",
    )
    webhook_pauses_s: Annotated[str, AfterValidator(_pauses_are_numbers)] = Field(
        "5,60,300,1800,7200,18000,36000",
        description="Seconds between two attempts to deliver a webhook, separated by commas; after "
        "the last one it is given up.",
    )
    api_rate_per_minute: int = Field(
        600, ge=1, description="Requests that each API key may make in a minute."
    )
    api_url: str | None = Field(
        None,
        description="Address of the HTTP API: the client and every command then ask it instead of "
        "ledger and broker.",
    )
    api_key: SecretStr | None = Field(
        None, description="The key for `API_URL`, as `ims-import keys create` prints it."
    )
    flower_basic_auth: SecretStr | None = Field(
        None, description="`user:password` of Flower's pages; without it one is made and printed."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="How logs are written to stderr."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe level that is logged."
    )

    @property
    def broker(self) -> str:
        return (self.broker_url or self.redis_url).get_secret_value()

    @property
    def results(self) -> str:
        return (self.result_backend or self.redis_url).get_secret_value()

    @property
    def redis(self) -> str:
        return self.redis_url.get_secret_value()

    @property
    def ledger(self) -> str:
        return self.ledger_url.get_secret_value()

    @cached_property
    def webhook_pauses(self) -> tuple[timedelta, ...]:
        """The pauses between attempts to deliver a webhook."""
        return tuple(timedelta(seconds=float(part)) for part in self.webhook_pauses_s.split(","))

    @cached_property
    def lease(self) -> timedelta:
        """How long a worker holds an import without renewing."""
        return timedelta(seconds=self.stale_after_s)
