"""HTTP sessions with timeouts and without retries, and whether a failed request was sent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ssl import SSLCertVerificationError
from typing import Any, Final

import requests
from keystoneauth1.exceptions import ClientException
from keystoneauth1.session import Session
from requests import exceptions as trouble
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3 import exceptions as cause
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.retry import Retry

from ims_config.records import ErrorClass

# What a call of a session raises: keystoneauth's errors, and those it does not translate.
CALL_FAILED: Final = (
    ClientException,
    trouble.RequestException,
    cause.HTTPError,
    OSError,
    ValueError,
)

POOL_SIZE: Final = 32
_MARK: Final = "ims_nothing_was_sent"


@dataclass(frozen=True, slots=True)
class NoResponse:
    """Why a call got no response, and whether the request may have arrived."""

    code: str
    message: str
    sent: bool
    error_class: ErrorClass = ErrorClass.RETRY
    hint: str = "Check the worker's network, proxy and DNS; retrying automatically."


def open_session(
    *,
    connect_timeout_s: float,
    read_timeout_s: float,
    verify: bool | str | None = True,
    cert: str | tuple[str, str] | None = None,
) -> Session:
    """A session that neither follows redirects nor retries."""
    http = requests.Session()
    adapter = SingleTryAdapter((connect_timeout_s, read_timeout_s))
    http.mount("https://", adapter)
    http.mount("http://", adapter)
    return Session(
        session=http, verify=verify, cert=cert, redirect=False, connect_retries=0,
        app_name="ims-import",
    )  # fmt: skip


class SingleTryAdapter(HTTPAdapter):
    """Sends once, with both timeouts, and marks errors that occur before anything is sent."""

    def __init__(self, timeouts: tuple[float, float]) -> None:
        self._timeouts = timeouts
        super().__init__(
            pool_maxsize=POOL_SIZE,
            max_retries=Retry(total=0, connect=0, read=False, redirect=0, status=0, other=0),
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # the signature of requests
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(  # noqa: PLR0917  # the signature of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002  # the signature of requests
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002  # the signature of requests
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Use this adapter's timeouts unless the caller sets one."""
        return super().send(request, stream, timeout or self._timeouts, verify, cert, proxies)


class _MarkedConnection(HTTPConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except Exception as exc:
            setattr(exc, _MARK, True)
            raise


class _MarkedTlsConnection(HTTPSConnection):
    def connect(self) -> None:
        # Name lookup, connection, proxy tunnel and TLS handshake precede the request.
        try:
            super().connect()
        except Exception as exc:
            setattr(exc, _MARK, True)
            raise


class _MarkedPool(HTTPConnectionPool):
    ConnectionCls = _MarkedConnection


class _MarkedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _MarkedTlsConnection


_POOLS: Final = {"http": _MarkedPool, "https": _MarkedTlsPool}

_READ_TIMEOUT: Final = (cause.ReadTimeoutError, trouble.ReadTimeout)
_TLS: Final = (trouble.SSLError, cause.SSLError)
# Causes that precede the request, subclasses first: some are subclasses of others in urllib3.
_BEFORE_SENDING: Final[tuple[tuple[tuple[type[Exception], ...], NoResponse], ...]] = (
    (
        (cause.NameResolutionError,),
        NoResponse("NETWORK.name", "the host name cannot be resolved", sent=False),
    ),
    (
        (cause.NewConnectionError,),
        NoResponse("NETWORK.refused", "connection failed", sent=False),
    ),
    (
        (cause.ConnectTimeoutError, trouble.ConnectTimeout),
        NoResponse("NETWORK.connect-timeout", "connection timed out", sent=False),
    ),
    (
        (SSLCertVerificationError,),
        NoResponse(
            "NETWORK.tls",
            "the certificate is not trusted",
            sent=False,
            error_class=ErrorClass.BLOCKED,
            hint=(
                "Check the address, the worker's clock and the proxy; name your own certificate "
                "authority as cacert in clouds.yaml."
            ),
        ),
    ),
    (
        (
            trouble.InvalidURL,
            trouble.MissingSchema,
            trouble.InvalidSchema,
            trouble.InvalidHeader,
            cause.LocationParseError,
        ),
        NoResponse(
            "NETWORK.address",
            "the address is invalid",
            sent=False,
            error_class=ErrorClass.BLOCKED,
            hint="Correct auth_url or image_endpoint_override in clouds.yaml.",
        ),
    ),
)


def explain(exc: BaseException) -> NoResponse:
    """Classify a failed call by its causes, because requests and keystoneauth raise the same
    errors for "refused before sending" and "dropped after sending"."""
    causes = list(_causes(exc))

    def is_any(kinds: tuple[type[Exception], ...]) -> bool:
        return any(isinstance(each, kinds) for each in causes)

    unsent = any(getattr(each, _MARK, False) for each in causes)
    if is_any(_READ_TIMEOUT) and not unsent:
        return NoResponse("NETWORK.read-timeout", "no response in time", sent=True)
    for kinds, meaning in _BEFORE_SENDING:
        if is_any(kinds):
            return meaning
    if unsent:
        what = "tls" if is_any(_TLS) else "refused"
        return NoResponse(f"NETWORK.{what}", "connection failed", sent=False)
    return NoResponse("NETWORK.lost", "the connection was lost before the response", sent=True)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and its causes: libraries use `from`, context, arguments and `reason`."""
    waiting: list[object] = [exc]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
