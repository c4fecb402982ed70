"""The sandbox cloud as an HTTP server, with the faults that only a socket can show."""

import json
import signal
import socket
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from ims_sandbox.cloud.api import Api, Request, parse_address
from ims_sandbox.cloud.faults import HEADER, Fault, Kind
from ims_sandbox.cloud.options import CloudOptions
from ims_sandbox.cloud.responses import Refusal, Reply, admin_error, gateway_error, ims_error
from ims_sandbox.cloud.state import CloudState

_HTML: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class Dropped(Exception):
    """The connection is closed without an answer."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, options: CloudOptions) -> None:
        self.books = CloudState(options, time.time)
        self.api = Api(self.books)
        super().__init__((options.host, options.port), Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that hang up are part of the game; anything else is a defect to be seen.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection; kept alive, as a real cloud's."""

    server: Server
    protocol_version = "HTTP/1.1"
    # An answer goes out in one piece: header and body would wait for each other otherwise.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        path, query = parse_address(self.path)
        request_id = uuid.uuid4().hex
        try:
            reply, fault = self._answer(path, query, body)
            self._send(reply, request_id, truncated=fault is Kind.TRUNCATED)
        except Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815  # http.server's names

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[Reply, Kind | None]:
        try:
            call, found = self.server.api.find(self.command, path)
        except Refusal as refusal:
            return refusal.reply, None
        books, fault = self.server.books, None
        if call.counted:
            with books.lock:
                books.calls[call.name] += 1
            time.sleep(books.options.latency_s)
            try:
                fault = books.faults.strike(call.name, self.headers.get(HEADER))
            except ValueError as exc:
                return admin_error(exc).reply, None
        request = Request(
            method=self.command,
            path=path,
            query=query,
            headers=self.headers,  # type: ignore[arg-type]  # a Message is a mapping of str
            body=body,
            url=self.server.url,
            fault=fault,
        )
        try:
            if fault:
                _before(fault)
            reply = call.act(request, **found)
        except Refusal as refusal:
            return refusal.reply, None
        return (_after(fault, reply), fault.kind) if fault else (reply, None)

    def _send(self, reply: Reply, request_id: str, *, truncated: bool) -> None:
        raw = isinstance(reply.body, bytes)
        content = b"" if reply.body is None else reply.body if raw else _json(reply.body)
        self.send_response(reply.status)
        self.send_header("X-Request-Id", request_id)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if raw else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if truncated else content)
        self.wfile.flush()
        if truncated:
            raise Dropped

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Nothing: `/admin/books` tells what happened."""


def _before(fault: Fault) -> None:
    """What goes wrong before the cloud has acted."""
    match fault.kind:
        case Kind.THROTTLED:
            raise gateway_error(
                429,
                "APIGW.0308",
                "The throttling threshold has been reached: policy user over ratelimit",
                {"Retry-After": f"{fault.seconds:.0f}"},
            )
        case Kind.UNAUTHORIZED:
            raise gateway_error(401, "APIGW.0307", "The token must be updated.")
        case Kind.ERROR_BEFORE:
            raise ims_error("IMG.0061", "Internal error.", status=500)
        case Kind.UNAVAILABLE:
            raise gateway_error(503, "APIGW.0613", "The backend is unavailable.")
        case Kind.DROP_BEFORE:
            raise Dropped
        case Kind.SLOW:
            time.sleep(fault.seconds)


def _after(fault: Fault, reply: Reply) -> Reply:
    """What goes wrong when the cloud has acted and the answer is on its way."""
    match fault.kind:
        case Kind.ERROR_AFTER:
            return ims_error("IMG.0061", "Internal error.", status=500).reply
        case Kind.TIMEOUT_AFTER:
            return Reply(status=504, body={"message": "Wait response timeout.", "request_id": "r"})
        case Kind.DROP_AFTER:
            raise Dropped
        case Kind.GARBAGE:
            return Reply(status=200, body=_HTML)
        case _:
            return reply


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


class SandboxCloud:
    """The cloud in threads of this process: `with SandboxCloud(options) as cloud: cloud.url`."""

    def __init__(self, options: CloudOptions | None = None) -> None:
        self._server = Server(options or CloudOptions())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def books(self) -> CloudState:
        return self._server.books

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.books.close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(options: CloudOptions) -> None:
    """Run in the foreground until SIGTERM or SIGINT; prints where it is and who may log in."""
    cloud = SandboxCloud(options)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    cloud.start()
    for line in _welcome(options, cloud.url):
        print(line, flush=True)  # noqa: T201  # a program's output
    done.wait()
    cloud.stop()


def _welcome(options: CloudOptions, url: str) -> list[str]:
    looks = "files are looked at" if options.s3_endpoint else "files are not looked at: no bucket"
    return [
        f"sandbox cloud (a simulation of IAM and IMS): {url}/v3",
        f"  user {options.user}, domain {options.domain}, project {options.project}; {looks}",
        f"  what happened: curl {url}/admin/books",
    ]
