"""HTTP to addresses that users gave: only to public hosts, checked when the connection is made.

A name is resolved once, every address it has must be allowed, and the connection goes to the
address that was checked: a name that resolves otherwise a moment later gains nothing (OWASP,
Server-Side Request Forgery Prevention Cheat Sheet). Proxies and redirects would go elsewhere and
are not used.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Timer
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection
from urllib3.util.retry import Retry

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
# The timeouts above are for single steps: who answers a byte at a time is cut off after this.
TOTAL_S: Final = 20.0
# Of the addresses that a name has.
MOST_TRIED: Final = 3

Address = IPv4Address | IPv6Address

# Python calls these global, but packets to them may end inside: translators and tunnels that
# carry another address.
_CARRIERS: Final = tuple(
    ip_network(text)
    for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32",
                 "192.88.99.0/24", "5f00::/16", "fec0::/10")
)  # fmt: skip


class Forbidden(Exception):
    """The host has an address that is not public and was not allowed; nothing was sent."""


class AllowList:
    """Which hosts may be reached although they are not public."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries`: networks, addresses and host names."""
        self._networks = []
        self._names = set()
        for part in entries:
            try:
                self._networks.append(ip_network(part, strict=False))
            except ValueError:
                self._names.add(part.lower())

    def check(self, host: str, address: Address) -> None:
        """Raises Forbidden."""
        if host.lower() in self._names or is_public(address):
            return
        bare = _unwrapped(address)
        if any(bare in network for network in self._networks if network.version == bare.version):
            return
        what = host if host == str(address) else f"{host} ({address})"
        raise Forbidden(f"{what} is not a public address")


def is_public(address: Address) -> bool:
    """Whether the address can only be a host of the internet (IANA's special
    registries)."""
    bare = _unwrapped(address)
    carried = any(bare in network for network in _CARRIERS if network.version == bare.version)
    return bare.is_global and not bare.is_multicast and not carried


def _unwrapped(address: Address) -> Address:
    # ::ffff:127.0.0.1 is 127.0.0.1 to the kernel.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@contextmanager
def public_session(allowed: AllowList) -> Iterator[requests.Session]:
    """A session that sends once, follows no redirect and reaches only what is allowed."""
    with requests.Session() as session:
        # Proxies of the environment would resolve the name themselves; .netrc has passwords.
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        adapter = _GuardedAdapter(allowed)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        yield session


class _GuardedAdapter(HTTPAdapter):
    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed
        super().__init__(max_retries=Retry(total=0, redirect=0, raise_on_redirect=False))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        plain = type("Plain", (_Plain,), {"allowed": self._allowed})
        tls = type("Tls", (_Tls,), {"allowed": self._allowed})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }


class _Guarded:
    """What a connection does here instead of resolving and connecting as it likes."""

    allowed: AllowList
    _twin: socket.socket | None = None
    _clock: Timer | None = None

    def _new_conn(self) -> socket.socket:
        to: Any = self
        host = to.host.strip("[]")
        try:
            sock = _connect(host, to.port, self.allowed)
        except (socket.gaierror, UnicodeError) as exc:
            raise NameResolutionError(host, to, exc) from exc  # type: ignore[arg-type]  # a name too long
        except TimeoutError as exc:
            raise ConnectTimeoutError(to, f"no connection to {host} in time") from exc
        except OSError as exc:
            raise NewConnectionError(to, f"no connection to {host}: {exc}") from exc
        # TLS takes the socket over; its twin stays good for hanging up.
        self._twin = sock.dup()
        self._clock = Timer(TOTAL_S, _hang_up, [self._twin])
        self._clock.daemon = True
        self._clock.start()
        return sock

    def close(self) -> None:
        if self._clock is not None and self._twin is not None:
            self._clock.cancel()
            self._twin.close()
        super().close()  # type: ignore[misc]  # of the connection it is mixed into


class _Plain(_Guarded, HTTPConnection):
    pass


class _Tls(_Guarded, HTTPSConnection):
    pass


def _connect(host: str, port: int, allowed: AllowList) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        allowed.check(host, ip_address(address))
    *others, last = addresses[:MOST_TRIED]
    for address in others:
        with suppress(OSError):
            return create_connection((address, port), timeout=CONNECT_TIMEOUT_S)
    return create_connection((last, port), timeout=CONNECT_TIMEOUT_S)


def _hang_up(twin: socket.socket) -> None:
    with suppress(OSError):
        twin.shutdown(socket.SHUT_RDWR)
