"""All settings, read from `IMS_IMPORT_*` variables and secret files.

Each kind of process has a class with the settings it uses, so that it neither reads nor validates
those of the others. A field is named like its variable; durations are `timedelta` values.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "IMS_IMPORT_"
SECRETS_DIR: Final = f"{PREFIX}SECRETS_DIR"
# Variables of the test suite.
_TEST_PREFIX: Final = f"{PREFIX}TEST_"
# The place for secret files in containers.
_DEFAULT_SECRETS_DIR: Final = Path("/run/secrets")


def secrets_dir() -> Path | None:
    """The folder of secret files; pydantic warns if the variable names a missing folder."""
    if path := os.environ.get(SECRETS_DIR):
        return Path(path)
    return _DEFAULT_SECRETS_DIR if _DEFAULT_SECRETS_DIR.is_dir() else None


def default_ledger_url() -> str:
    """An SQLite file of the user, so that a first run needs no configuration."""
    return f"sqlite:///{Path.home() / '.local' / 'state' / 'ims-import' / 'ledger.db'}"


# Times this far ahead still fit into every database and datetime.
_LONGEST: Final = timedelta(days=3650)


def _duration(value: object, unit: timedelta, rule: str) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        duration = float(str(value)) * unit
    except (ValueError, OverflowError):
        raise ValueError(rule) from None
    if not timedelta(0) <= duration <= _LONGEST:
        raise ValueError(rule)
    return duration


def _seconds(value: object) -> timedelta:
    return _duration(value, timedelta(seconds=1), "must be a number of seconds")


def _days(value: object) -> timedelta:
    return _duration(value, timedelta(days=1), "must be a number of days")


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be greater than 0")
    return value


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _pauses(value: object) -> object:
    rule = "must be seconds, separated by commas, e.g. 5,60,300"
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(rule)  # noqa: TRY004  # pydantic turns only a ValueError into a field error
    return tuple(_duration(part, timedelta(seconds=1), rule) for part in parts)


Seconds = Annotated[timedelta, BeforeValidator(_seconds), AfterValidator(_positive)]
Days = Annotated[timedelta, BeforeValidator(_days), AfterValidator(_positive)]
# NoDecode: pydantic-settings expects JSON for tuples; these are separated by commas.
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
Pauses = Annotated[tuple[timedelta, ...], NoDecode, BeforeValidator(_pauses)]


class BrokerSettings(BaseSettings):
    """Settings of every process, the base of the other classes: queues and logs.

    The variable `IMS_IMPORT_REDIS_URL` takes precedence over the file `ims_import_redis_url`.
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
        None, description="Celery's broker; defaults to exactly `REDIS_URL`."
    )
    result_backend: SecretStr | None = Field(
        None, description="Celery's result backend; defaults to exactly `REDIS_URL`."
    )
    default_queue: str = Field(
        "celery",
        description="Queue that receives `ims.import_image` from applications that name none; "
        "empty if workers of other applications consume it on the same broker.",
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Format of the logs on stderr."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
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


class LedgerSettings(BrokerSettings):
    """Settings of every process that opens the ledger."""

    ledger_url: SecretStr = Field(
        default_factory=lambda: SecretStr(default_ledger_url()),
        description="SQLAlchemy URL of the ledger: SQLite, or `postgresql+psycopg://…`.",
    )

    @property
    def ledger(self) -> str:
        return self.ledger_url.get_secret_value()


class WorkerSettings(LedgerSettings):
    """Settings of a worker."""

    secret_key: Secrets = Field(
        (),
        description="Fernet key that encrypts the shared token and signs webhooks; several keys, "
        "separated by commas, for rotation (the first encrypts).",
    )
    poll_first_s: Seconds = Field(
        timedelta(seconds=12), description="Pause after the first poll of a job, in seconds."
    )
    poll_max_s: Seconds = Field(
        timedelta(seconds=60), description="Longest interval between two polls, in seconds."
    )
    max_active_per_project: int = Field(
        35, ge=1, description="Most active IMS jobs per project; IMS allows 40."
    )
    sweep_every_s: Seconds = Field(
        timedelta(seconds=10),
        description="Seconds between two comparisons of the ledger with the schedule.",
    )
    stale_after_s: Seconds = Field(
        timedelta(seconds=20),
        description="Seconds after which an import is resumed if the lease of its worker was not "
        "renewed.",
    )
    settle_s: Seconds = Field(
        timedelta(seconds=300),
        description="Seconds to search for the image of a request whose response was lost, before "
        "the request counts as not received.",
    )
    uncertain_policy: Literal["resubmit", "ask"] = Field(
        "resubmit", description="What to do if no image was found after `SETTLE_S`."
    )
    deadline_s: Seconds = Field(
        timedelta(hours=6),
        description="Seconds after which an import is marked overdue; it continues.",
    )
    retention_days: Days | None = Field(
        None, description="Delete finished imports after this many days; unset keeps them."
    )
    job_api: Literal["status", "progress"] = Field(
        "status",
        description="Call that reads a job: `status` is GET /v1/{project}/jobs/{id}, `progress` is "
        "GET /v1/cloudimages/job/{id}.",
    )
    connect_timeout_s: Seconds = Field(
        timedelta(seconds=3.05), description="Timeout for connecting to the cloud, in seconds."
    )
    read_timeout_s: Seconds = Field(
        timedelta(seconds=30), description="Timeout for a response of the cloud, in seconds."
    )
    alive_file: Path | None = Field(
        None, description="File that a running worker touches, for a cheap health check."
    )
    watch_file: Path | None = Field(
        None, description="YAML file of bucket rules; workers import new objects of their buckets."
    )
    watch_every_s: Seconds = Field(
        timedelta(seconds=60), description="Seconds between two listings of the buckets with rules."
    )
    obs_endpoint: str = Field(
        "https://obs.eu-de.otc.t-systems.com",
        description="S3 endpoint of the object storage that holds buckets with rules.",
    )
    obs_access_key: SecretStr | None = Field(
        None, description="Access key (AK) for listing buckets with rules."
    )
    obs_secret_key: SecretStr | None = Field(
        None, description="Secret key (SK) for listing buckets with rules."
    )
    obs_addressing: Literal["virtual", "path"] = Field(
        "virtual",
        description="Position of the bucket in a URL: OBS requires the host name (`virtual`), "
        "MinIO and Ceph usually the `path`.",
    )
    webhook_allow: Texts = Field(
        (),
        description="Non-public destinations that webhooks may reach: networks, addresses and "
        "host names, separated by commas.",
    )
    webhook_pauses_s: Pauses = Field(
        tuple(timedelta(seconds=pause) for pause in (5, 60, 300, 1800, 7200, 18000, 36000)),
        description="Seconds between two attempts to deliver a webhook, separated by commas; "
        "the delivery fails after the last one.",
    )

    @property
    def secret_keys(self) -> list[str]:
        return [key.get_secret_value() for key in self.secret_key]


class ApiSettings(LedgerSettings):
    """Settings of the HTTP API."""

    smn_topics: Texts = Field(
        (),
        description="URNs of SMN topics, separated by commas, from which the HTTP API accepts "
        "object events.",
    )
    smn_hosts: Texts = Field(
        ("smn.eu-de.otc.t-systems.com", "smn.eu-nl.otc.t-systems.com",
         "smn.eu-ch2.sc.otc.t-systems.com"),
        description="Hosts from which SMN certificates and confirmations are fetched, separated "
        "by commas.",
    )  # fmt: skip
    api_rate_per_minute: int = Field(
        600, ge=1, description="Requests per minute that each API key may send."
    )


class ClientSettings(LedgerSettings):
    """Settings of the command line and the Python client."""

    api_url: str | None = Field(
        None,
        description="URL of the HTTP API; clients and commands then use it instead of the ledger "
        "and the broker.",
    )
    api_key: SecretStr | None = Field(
        None, description="API key for `API_URL`, as `ims-import keys create` prints it."
    )


class FlowerSettings(BrokerSettings):
    """Settings of Flower."""

    flower_basic_auth: SecretStr | None = Field(
        None, description="`user:password` of Flower's pages; unset generates and prints one."
    )


class Settings(WorkerSettings, ApiSettings, ClientSettings, FlowerSettings):
    """All settings: for the documentation, the check for unknown variables, and the sandbox."""


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Variables `IMS_IMPORT_*` that name no setting, and the closest name that does."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    return {
        name: _closest(name, known)
        for name in sorted(environ)
        if name.upper().startswith(PREFIX)
        and not name.upper().startswith(_TEST_PREFIX)
        and name.upper() not in {*known, SECRETS_DIR}
    }


def _closest(name: str, known: list[str]) -> str | None:
    # Compared without the prefix, which would make every name similar.
    words = [each.removeprefix(PREFIX) for each in known]
    matches = get_close_matches(name.upper().removeprefix(PREFIX), words, n=1)
    return f"{PREFIX}{matches[0]}" if matches else None
