"""On real sockets: whether a failed request was sent."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import requests
from builders import a_request
from ims_client import a_state, an_auth

from ims_worker.adapters.otc.http import open_session
from ims_worker.adapters.otc.ims import ImsService
from ims_worker.errors import NotSent, OutcomeUnknown, Unavailable

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"job_id":"j"}'
Handler = Callable[[socket.socket], None]


@contextmanager
def server(handle: Handler) -> Iterator[int]:
    """A local TCP server that handles each connection with `handle`."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_ones.append(connection)
                with suppress(OSError):
                    handle(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # On Linux, close() alone does not wake accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in open_ones:
            connection.close()


def read_request(connection: socket.socket) -> bytes:
    """The whole request, which may arrive in parts; empty after a disconnect."""
    got = b""
    while not (head := got.partition(b"\r\n\r\n"))[1] or len(head[2]) < _length(head[0]):
        if not (more := connection.recv(65536)):
            break
        got += more
    return got


def _length(headers: bytes) -> int:
    found = re.search(rb"(?im)^content-length: *(\d+)", headers)
    return int(found[1]) if found else 0


def a_client(port: int, scheme: str = "http") -> ImsService:
    session = open_session(connect_timeout_s=1, read_timeout_s=0.3)
    return ImsService(session, an_auth(a_state(url=f"{scheme}://127.0.0.1:{port}")))


def test_a_refused_connection_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(NotSent):
        a_client(port).create_image(a_request(), import_id="i")


def test_a_name_that_does_not_resolve_sent_nothing() -> None:
    session = open_session(connect_timeout_s=1, read_timeout_s=1)
    auth = an_auth(a_state(url="http://nowhere.invalid"))

    with pytest.raises(NotSent):
        ImsService(session, auth).create_image(a_request(), import_id="i")


def test_a_failed_tls_handshake_sent_nothing() -> None:
    def plain_text(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    def closes(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.close()

    for handle in (plain_text, closes):
        with server(handle) as port, pytest.raises(NotSent):
            a_client(port, "https").create_image(a_request(), import_id="i")


def test_a_connection_lost_after_the_request_is_unknown_and_not_retried() -> None:
    connections: list[int] = []

    def hang_up(connection: socket.socket) -> None:
        connections.append(1)
        read_request(connection)
        connection.close()

    with server(hang_up) as port, pytest.raises(OutcomeUnknown):
        a_client(port).create_image(a_request(), import_id="i")

    assert len(connections) == 1


def test_a_timeout_is_unknown_for_a_create_and_retryable_for_a_read() -> None:
    with server(lambda _connection: None) as port:
        with pytest.raises(OutcomeUnknown):
            a_client(port).create_image(a_request(), import_id="i")
        with pytest.raises(Unavailable):
            a_client(port).quota()


def test_an_incomplete_response_is_unknown() -> None:
    def half(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK[:-5])
        connection.close()

    with server(half) as port, pytest.raises(OutcomeUnknown):
        a_client(port).create_image(a_request(), import_id="i")


def test_a_closed_keep_alive_connection_is_unknown_and_not_retried() -> None:
    requests_seen: list[bytes] = []

    def answers_once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        requests_seen.append(read_request(connection))
        connection.close()

    with server(answers_once) as port:
        client = a_client(port)
        client.create_image(a_request(), import_id="i")
        with pytest.raises(OutcomeUnknown):
            client.create_image(a_request(), import_id="i")

    assert len(requests_seen) == 1


def test_a_redirect_is_not_followed() -> None:
    seen: list[bytes] = []

    def elsewhere(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 307 Temporary\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")

    with server(elsewhere) as port:
        session = open_session(connect_timeout_s=1, read_timeout_s=1)
        answer: requests.Response = session.request(
            f"http://127.0.0.1:{port}/", "POST", authenticated=False, raise_exc=False
        )

    assert answer.status_code == 307
    assert len(seen) == 1
