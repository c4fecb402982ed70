"""HTTP sessions that always time out, never repeat a call, and know whether it left."""

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

# What a session's call may raise: keystoneauth's words, and what it lets through.
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
class NoAnswer:
    """Why a call got no answer, and whether the request can have arrived."""

    code: str
    message: str
    sent: bool


def open_session(
    *,
    connect_timeout_s: float,
    read_timeout_s: float,
    verify: bool | str | None = True,
    cert: str | tuple[str, str] | None = None,
) -> Session:
    """A session that follows no redirect and repeats nothing by itself."""
    wire = requests.Session()
    adapter = OneTry((connect_timeout_s, read_timeout_s))
    wire.mount("https://", adapter)
    wire.mount("http://", adapter)
    return Session(
        session=wire, verify=verify, cert=cert, redirect=False, connect_retries=0,
        app_name="ims-import",
    )  # fmt: skip


class OneTry(HTTPAdapter):
    """Sends once, always with both timeouts, and marks what failed before anything was sent."""

    def __init__(self, timeouts: tuple[float, float]) -> None:
        self._timeouts = timeouts
        super().__init__(
            pool_maxsize=POOL_SIZE,
            max_retries=Retry(total=0, connect=0, read=False, redirect=0, status=0, other=0),
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
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
        timeout: Any = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002  # the signature of requests
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send with this adapter's timeouts where the caller names none."""
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
        # Name, port, proxy tunnel and TLS handshake: all before the first byte of a request.
        try:
            super().connect()
        except Exception as exc:
            setattr(exc, _MARK, True)
            raise


class _MarkedPool(HTTPConnectionPool):
    ConnectionCls = _MarkedConnection


class _MarkedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _MarkedTlsConnection


_POOLS: Final[dict[str, Any]] = {"http": _MarkedPool, "https": _MarkedTlsPool}

_READ_TIMEOUT: Final = (cause.ReadTimeoutError, trouble.ReadTimeout)
_TLS: Final = (trouble.SSLError, cause.SSLError)
# Causes that arise before the first byte of a request, the more precise first: urllib3 has made
# some of them kinds of others.
_BEFORE_SENDING: Final[tuple[tuple[tuple[type[Exception], ...], NoAnswer], ...]] = (
    (
        (cause.NameResolutionError,),
        NoAnswer("NETWORK.name", "the host name is not known", sent=False),
    ),
    (
        (cause.NewConnectionError,),
        NoAnswer("NETWORK.refused", "no connection could be made", sent=False),
    ),
    (
        (cause.ConnectTimeoutError, trouble.ConnectTimeout),
        NoAnswer("NETWORK.connect-timeout", "no connection in time", sent=False),
    ),
    (
        (SSLCertVerificationError,),
        NoAnswer("NETWORK.tls", "the certificate is not trusted", sent=False),
    ),
    (
        (
            trouble.InvalidURL,
            trouble.MissingSchema,
            trouble.InvalidSchema,
            trouble.InvalidHeader,
            cause.LocationParseError,
        ),
        NoAnswer("NETWORK.address", "the address is not usable", sent=False),
    ),
)


def explain(exc: BaseException) -> NoAnswer:
    """Read the causes of a failed call: requests and keystoneauth use the same words for
    "refused before sending" and "dropped after sending", and only the causes differ."""
    causes = list(_causes(exc))

    def is_any(kinds: tuple[type[Exception], ...]) -> bool:
        return any(isinstance(each, kinds) for each in causes)

    unsent = any(getattr(each, _MARK, False) for each in causes)
    if is_any(_READ_TIMEOUT) and not unsent:
        return NoAnswer("NETWORK.read-timeout", "no answer in time", sent=True)
    for kinds, meaning in _BEFORE_SENDING:
        if is_any(kinds):
            return meaning
    if unsent:
        what = "tls" if is_any(_TLS) else "refused"
        return NoAnswer(f"NETWORK.{what}", "no connection could be made", sent=False)
    return NoAnswer("NETWORK.lost", "the connection was lost before the answer", sent=True)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception and all it stands for: libraries use `from`, context, arguments, `reason`."""
    waiting: list[Any] = [exc]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
