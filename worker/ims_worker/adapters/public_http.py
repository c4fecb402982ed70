"""HTTP to addresses that users supply: only to public hosts, checked when connecting.

A name is resolved once, all its addresses must be allowed, and the connection uses a checked
address, so that DNS rebinding fails (OWASP, Server-Side Request Forgery Prevention Cheat Sheet).
Proxies and redirects would bypass the check and are not used.
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
# The timeouts above limit single reads; this limits a server that sends byte by byte.
TOTAL_S: Final = 20.0
# Of the addresses of a name.
MAX_ADDRESSES: Final = 3

Address = IPv4Address | IPv6Address

# Global according to Python, but they embed another address, which may be internal (NAT64, 6to4,
# Teredo).
_EMBEDDING: Final = tuple(
    ip_network(text)
    for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32",
                 "192.88.99.0/24", "5f00::/16", "fec0::/10")
)  # fmt: skip


class Forbidden(Exception):
    """The host has an address that is neither public nor allowed; nothing was sent."""


class AllowList:
    """Hosts that may be reached although they are not public."""

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
    """Whether only a host on the internet can have this address (IANA's special registries)."""
    bare = _unwrapped(address)
    embeds = any(bare in network for network in _EMBEDDING if network.version == bare.version)
    return bare.is_global and not bare.is_multicast and not embeds


def _unwrapped(address: Address) -> Address:
    # The kernel connects ::ffff:127.0.0.1 to 127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@contextmanager
def public_session(allowed: AllowList) -> Iterator[requests.Session]:
    """A session that sends once, follows no redirect and reaches only allowed hosts."""
    with requests.Session() as session:
        # Environment proxies would resolve the name themselves; .netrc contains passwords.
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

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # the signature of requests
        super().init_poolmanager(*args, **kwargs)
        plain = type("Plain", (_Plain,), {"allowed": self._allowed})
        tls = type("Tls", (_Tls,), {"allowed": self._allowed})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }


class _Guarded:
    """Mixed into a connection: checks every address and limits the total time."""

    allowed: AllowList
    _duplicate: socket.socket | None = None
    _timer: Timer | None = None

    def _new_conn(self) -> socket.socket:
        to: Any = self
        host = to.host.strip("[]")
        try:
            sock = _connect(host, to.port, self.allowed)
        except (socket.gaierror, UnicodeError) as exc:
            raise NameResolutionError(host, to, exc) from exc  # type: ignore[arg-type]  # a name too long
        except TimeoutError as exc:
            raise ConnectTimeoutError(to, f"connection to {host} timed out") from exc
        except OSError as exc:
            raise NewConnectionError(to, f"connection to {host} failed: {exc}") from exc
        # TLS detaches the socket; a duplicate can still be shut down.
        self._duplicate = sock.dup()
        self._timer = Timer(TOTAL_S, _shut_down, [self._duplicate])
        self._timer.daemon = True
        self._timer.start()
        return sock

    def close(self) -> None:
        if self._timer is not None and self._duplicate is not None:
            self._timer.cancel()
            self._duplicate.close()
        super().close()  # type: ignore[misc]  # of the connection class


class _Plain(_Guarded, HTTPConnection):
    pass


class _Tls(_Guarded, HTTPSConnection):
    pass


def _connect(host: str, port: int, allowed: AllowList) -> socket.socket:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    for address in addresses:
        allowed.check(host, ip_address(address))
    *others, last = addresses[:MAX_ADDRESSES]
    for address in others:
        with suppress(OSError):
            return create_connection((address, port), timeout=CONNECT_TIMEOUT_S)
    return create_connection((last, port), timeout=CONNECT_TIMEOUT_S)


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
