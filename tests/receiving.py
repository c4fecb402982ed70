"""A webhook receiver that verifies signatures with the reference library and can misbehave."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook


@dataclass(frozen=True, slots=True)
class Received:
    """One request with its path, headers and body."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def type(self) -> str:
        return str(self.event["type"])

    def verify(self, secret: str) -> None:
        """Raises WebhookVerificationError for an invalid signature."""
        Webhook(secret).verify(self.body, self.headers, json_parse=False)


@dataclass(slots=True)
class Receiver:
    """Responds with 204, unless `answers` has statuses for the next requests."""

    url: str
    all: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every response."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Responses wait until it is set; a test may clear it."""
    dribble: bool = False
    """Respond one byte at a time, without end."""
    now: int = 0
    most: int = 0
    """Requests in progress now, and the maximum so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextmanager
    def running(
        cls, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> Iterator[Self]:
        server = ThreadingHTTPServer((host, port), _Handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        receiver = cls(f"{'https' if tls else 'http'}://{host}:{port}/hook")
        receiver.gate.set()
        server.receiver = receiver  # type: ignore[attr-defined]  # read by the handler
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.gate.set()
            receiver.dribble = False
            server.shutdown()
            server.server_close()
            thread.join()

    def types(self, import_id: str | None = None) -> list[str]:
        """Types of the received events in order of arrival, of one import or of all."""
        return [
            request.type
            for request in self.all
            if import_id is None or request.event["subject"] == import_id
        ]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]  # as above
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with receiver.lock:
            receiver.all.append(Received(self.path, headers, body))
            receiver.now += 1
            receiver.most = max(receiver.most, receiver.now)
            status = receiver.answers.pop(0) if receiver.answers else 204
        receiver.gate.wait(60)
        with suppress(OSError):
            self._answer(receiver, status)
        with receiver.lock:
            receiver.now -= 1

    def _answer(self, receiver: Receiver, status: int) -> None:
        if receiver.dribble:
            while receiver.dribble:
                self.wfile.write(b"x")
                threading.Event().wait(0.05)
            return
        self.send_response(status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
