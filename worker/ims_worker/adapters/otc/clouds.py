"""The clouds of this worker's clouds.yaml, each with one session, token and IMS client."""

from __future__ import annotations

import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography.fernet import Fernet, MultiFernet
from keystoneauth1.exceptions import (
    AuthPluginException,
    ClientException,
    HttpError,
    InvalidResponse,
    MissingAuthPlugin,
)
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ims_config.records import ErrorClass, Failure
from ims_config.settings import BrokerSettings, WorkerSettings
from ims_config.worker_reports import CloudError, CloudReport, ImageQuota
from ims_worker.adapters.otc import responses
from ims_worker.adapters.otc.auth import LOGIN_READ_S, SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.http import explain, open_session
from ims_worker.adapters.otc.ims import ImsService
from ims_worker.adapters.otc.tokens import Now, TokenStore
from ims_worker.adapters.redis.token_store import RedisTokenStore, identity_name
from ims_worker.errors import CloudProblem, LoginRefused, Refused, Unavailable
from ims_worker.ports import ImageService

if TYPE_CHECKING:
    from openstack.config import OpenStackConfig
    from openstack.config.cloud_region import CloudRegion

logger = logging.getLogger(__name__)

# The settings that identify credentials; none of them is secret.
_IDENTITY: Final = (
    "auth_url", "username", "user_id", "user_domain_id", "user_domain_name", "project_id",
    "project_name", "project_domain_id", "project_domain_name", "tenant_id", "tenant_name",
    "domain_id", "domain_name", "default_domain_id", "default_domain_name", "system_scope",
    "trust_id", "application_credential_id", "application_credential_name",
)  # fmt: skip
_TOO_MANY_REQUESTS: Final = 429
_REQUEST_TIMEOUT: Final = 408
_REDIRECT: Final = 300
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_CREDENTIALS_HINT: Final = (
    "Set user, password, domain and project in the worker's clouds.yaml (or OS_* variables)."
)
_WRONG_HINT: Final = (
    "Correct the credentials in the worker's clouds.yaml, "
    "then run: ims-import resume [--cloud NAME]"
)
_DISCOVERY_REFUSED: Final = Failure(
    code="IAM.discovery",
    message="IAM refused to list its API versions",
    error_class=ErrorClass.RETRY,
    hint="Check auth_url and the proxy of the worker; retrying automatically.",
    http_status=401,
)


def coordination_redis(settings: BrokerSettings) -> Redis:
    """A client that gives up quickly, because a worker also works without Redis."""
    return Redis.from_url(
        settings.redis,
        socket_connect_timeout=1.0,
        socket_timeout=2.0,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=30,
    )


class Cloud:
    """One entry of clouds.yaml. Creating it does no network I/O."""

    def __init__(
        self,
        name: str | None,
        read_region: Callable[[], CloudRegion],
        settings: WorkerSettings,
        redis: Redis | None,
        now: Now,
    ) -> None:
        region = read_region()
        self.name = name
        self.identity = _identity(region)
        self._plugin = _identity_plugin(region, name)
        self._read_region = read_region
        self._now = now
        verify, cert = region.get_requests_verify_args()
        self._login_session = _session(settings, verify, cert, longest_read_s=LOGIN_READ_S)
        self.tokens = SharedToken(
            self._log_in, _token_store(settings, redis, self.identity), now=now
        )
        self.service = ImsService(
            _session(settings, verify, cert),
            SharedTokenAuth(self.tokens),
            region=region.get_region_name("image") or None,
            interface=region.get_interface("image") or "public",
            endpoint_override=region.get_endpoint("image"),
            job_api=settings.job_api,
            now=now,
        )

    def _log_in(self) -> str:
        """Keystoneauth's auth state after one login; raises LoginRefused or Unavailable."""
        self._reread_password()
        try:
            self._plugin.invalidate()
            self._plugin.get_access(self._login_session)
            return str(self._plugin.get_auth_state())
        except Exception as exc:  # keystoneauth raises bare exceptions for missing parameters
            raise login_problem(exc, self.identity.get("auth_url"), now=self._now()) from exc

    def _reread_password(self) -> None:
        """Logins are rare, so each rereads clouds.yaml: a corrected password needs no restart.

        A changed user or project does, because the shared token is named after them.
        """
        try:
            region = self._read_region()
        except CloudProblem as problem:
            logger.warning("clouds.yaml not reread", extra={"reason": str(problem)})
            return
        if _identity(region) == self.identity:
            self._plugin = _identity_plugin(region, self.name)


class OpenStackClouds:
    """One session per cloud and process."""

    def __init__(
        self,
        settings: WorkerSettings,
        redis: Redis | None = None,
        *,
        now: Now = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._redis = coordination_redis(settings) if redis is None else redis
        self._now = now
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        """A forked process must not use its parent's sockets and locks."""
        self._lock = threading.Lock()
        self._clouds: dict[str | None, Cloud] = {}

    def service(self, cloud: str | None) -> ImsService:
        return self._cloud(cloud).service

    def retry_login(self, cloud: str | None) -> Collection[str | None]:
        """End the login backoff of a cloud's credentials, after a person corrected them.

        Returns every name of these credentials: entries of clouds.yaml, and None for the default.
        """
        credentials = self._cloud(cloud).identity
        names = []
        for name in (None, *_open_config().get_cloud_names()):
            # Other entries may be incomplete, or not even be mappings.
            with suppress(CloudProblem, AttributeError, KeyError):
                entry = self._cloud(name)
                if entry.identity == credentials:
                    entry.tokens.allow_login()
                    names.append(name)
        return names

    def check(self, cloud: str | None) -> CloudReport:
        """Check the login and the quota of a cloud; the report holds no secret."""
        try:
            entry = self._cloud(cloud)
            who = entry.identity
        except CloudProblem as problem:
            return CloudReport(cloud=cloud, login_error=_error(problem))
        report = CloudReport(
            cloud=cloud,
            auth_url=who.get("auth_url"),
            user=who.get("username") or who.get("user_id"),
            project=who.get("project_name") or who.get("project_id"),
        )
        try:
            expires_at = entry.tokens.current().expires_at.isoformat()
        except CloudProblem as problem:
            return report.model_copy(update={"login_error": _error(problem)})
        login = {"shared_token": entry.tokens.is_shared, "token_expires_at": expires_at}
        return report.model_copy(update=login | _quota(entry.service))

    def _cloud(self, name: str | None) -> Cloud:
        with self._lock:
            if name not in self._clouds:
                self._clouds[name] = Cloud(
                    name, lambda: _read_region(name), self._settings, self._redis, self._now
                )
            return self._clouds[name]


_ALIVE: weakref.WeakSet[OpenStackClouds] = weakref.WeakSet()


def _after_fork() -> None:
    for clouds in _ALIVE:
        clouds._reset()  # noqa: SLF001  # of this module


os.register_at_fork(after_in_child=_after_fork)


def _read_region(name: str | None) -> CloudRegion:
    """An entry of clouds.yaml, secure.yaml and OS_*, as openstacksdk reads them."""
    # Imported here because it takes 0.2 s, which most tests need not wait for.
    from openstack.exceptions import SDKException  # noqa: PLC0415

    config = _open_config()
    entries = sorted(config.get_cloud_names())
    if name is not None and name not in entries:
        raise _unknown_cloud(name, entries)
    try:
        with warnings.catch_warnings():
            # openstacksdk 4 warns of InfluxDB whether it is used or not.
            warnings.filterwarnings("ignore", message="Support for InfluxDB")
            region = config.get_one(cloud=name)
    except (SDKException, AuthPluginException, ValueError, TypeError, OSError) as exc:
        raise _not_configured(f"{_entry(name)}: {responses.clean(exc)}") from exc
    _identity_plugin(region, name)
    if missing := _missing(region.config):
        raise _not_configured(f"{_entry(name)} has no {' and no '.join(missing)}")
    return region


def _open_config() -> OpenStackConfig:
    from openstack.config import OpenStackConfig  # noqa: PLC0415  # as above
    from openstack.exceptions import SDKException  # noqa: PLC0415

    try:
        return OpenStackConfig(app_name="ims-import")
    except (SDKException, OSError, ValueError) as exc:
        raise _not_configured(f"clouds.yaml cannot be read: {responses.clean(exc)}") from exc


def _identity_plugin(region: CloudRegion, name: str | None) -> BaseIdentityPlugin:
    plugin = region.get_auth()
    if not isinstance(plugin, BaseIdentityPlugin):
        raise _not_configured(f"{_entry(name)} has no credentials for an IAM login")
    return plugin


def login_problem(exc: Exception, auth_url: str | None, *, now: datetime) -> CloudProblem:
    """Classify a failed login: only a 4xx of IAM itself is about the credentials."""
    tried = f"POST {(auth_url or '').rstrip('/')}/auth/tokens"
    response = exc.response if isinstance(exc, HttpError | InvalidResponse) else None
    status = 0 if response is None else int(response.status_code)
    if response is not None and status >= _REDIRECT:
        failure = responses.parse_failure(status, response.content or b"", response.headers)
        request = f", request {failure.request_id}" if failure.request_id else ""
        tried += f" (HTTP {status}{request})"
        if status >= _SERVER_ERROR or status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT):
            pause = responses.parse_retry_after(response.headers.get("Retry-After"), now=now)
            failure = failure.model_copy(update={"error_class": ErrorClass.RETRY})
            return Unavailable(failure, tried=tried, retry_after=pause)
        if status < _CLIENT_ERROR:
            return Unavailable(failure, tried=tried)
        hint = _WRONG_HINT if failure.code.startswith("HTTP.") else failure.hint
        refused = failure.model_copy(update={"error_class": ErrorClass.AUTH, "hint": hint})
        return LoginRefused(refused, tried=tried)
    # keystoneauth repeats a version discovery that got a 401 with credentials, which this session
    # does not have. No credentials were sent, so the 401 says nothing about them.
    if isinstance(exc, MissingAuthPlugin):
        return Unavailable(_DISCOVERY_REFUSED, tried=f"GET {auth_url} (HTTP 401)")
    if isinstance(exc, AuthPluginException) or type(exc) is Exception:
        return _not_configured(responses.clean(exc))
    why = explain(exc) if isinstance(exc, ClientException) else None
    lasting = why is not None and why.error_class is ErrorClass.BLOCKED
    failure = Failure(
        code=why.code if why else "IAM.unreadable",
        message=f"no usable response from IAM: {responses.clean(exc, longest=300)}",
        error_class=ErrorClass.BLOCKED if lasting else ErrorClass.RETRY,
        hint=(
            why.hint
            if why and lasting
            else "Check the worker's auth_url, network, proxy and DNS; retrying automatically."
        ),
    )
    return Unavailable(failure, tried=f"{tried} (no response)")


def _missing(config: Mapping[str, object]) -> list[str]:
    """What a password login lacks; keystoneauth reports it only after a call."""
    if config.get("auth_type") not in ("password", "v3password"):
        return []
    auth = config.get("auth")
    auth = auth if isinstance(auth, Mapping) else {}
    missing = [] if auth.get("username") or auth.get("user_id") else ["username"]
    return missing if auth.get("password") else [*missing, "password"]


def _identity(region: CloudRegion) -> Mapping[str, str]:
    auth = region.config.get("auth") or {}
    identity = {key: str(auth[key]) for key in _IDENTITY if auth.get(key)}
    return {**identity, "auth_type": str(region.config.get("auth_type") or "password")}


def _session(
    settings: WorkerSettings,
    verify: bool | str | None,  # noqa: FBT001  # the type of requests
    cert: str | tuple[str, str] | None,
    *,
    longest_read_s: float | None = None,
) -> Session:
    read_s = settings.read_timeout_s.total_seconds()
    return open_session(
        connect_timeout_s=settings.connect_timeout_s.total_seconds(),
        read_timeout_s=min(longest_read_s or read_s, read_s),
        verify=verify,
        cert=cert,
    )


def _token_store(
    settings: WorkerSettings, redis: Redis | None, identity: Mapping[str, str]
) -> TokenStore | None:
    keys = secret_keys(settings)
    if redis is None or not keys:
        return None
    # Named by the last key: during a key rotation (new,old), old and new workers share a token.
    name = identity_name(keys[-1], identity)
    return RedisTokenStore(redis, MultiFernet([Fernet(key) for key in keys]), name)


def secret_keys(settings: WorkerSettings) -> list[str]:
    """The Fernet keys of SECRET_KEY, of which the first encrypts; none, with a warning, if unset
    or invalid."""
    keys = settings.secret_keys
    try:
        for key in keys:
            Fernet(key)
    except ValueError:
        _warn_once("IMS_IMPORT_SECRET_KEY is not a Fernet key: each process logs in for itself")
        return []
    if not keys:
        _warn_once("IMS_IMPORT_SECRET_KEY is not set: each process logs in for itself")
    return keys


_WARNED: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _WARNED:
        _WARNED.add(text)
        logger.warning(text)


def _entry(name: str | None) -> str:
    return f"cloud {name}" if name else "the worker's default cloud (OS_CLOUD or OS_*)"


def _unknown_cloud(name: str, known: list[str]) -> Refused:
    failure = Failure(
        code="CLOUD.unknown",
        message=f"no entry {name!r} in this worker's clouds.yaml; known: {', '.join(known) or '-'}",
        error_class=ErrorClass.PERMANENT,
        hint="Use a known entry, or add one to clouds.yaml of every worker.",
    )
    return Refused(failure, tried="read clouds.yaml")


def _not_configured(problem: str) -> LoginRefused:
    failure = Failure(
        code="CLOUD.credentials",
        message=problem,
        error_class=ErrorClass.AUTH,
        hint=_CREDENTIALS_HINT,
    )
    return LoginRefused(failure, tried="read clouds.yaml")


def _quota(service: ImageService) -> dict[str, ImageQuota | CloudError]:
    try:
        quota = service.quota()
    except CloudProblem as problem:
        return {"quota_error": _error(problem)}
    return {"quota": ImageQuota(used=quota.used, limit=quota.limit)}


def _error(problem: CloudProblem) -> CloudError:
    return CloudError(failure=problem.failure, tried=problem.tried)
