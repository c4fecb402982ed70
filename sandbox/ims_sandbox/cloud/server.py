"""The sandbox cloud as an HTTP server."""

import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ims_sandbox.cloud.api import Api, Request, parse_address
from ims_sandbox.cloud.faults import Dropped
from ims_sandbox.cloud.options import CloudOptions
from ims_sandbox.cloud.responses import Reply
from ims_sandbox.cloud.state import CloudState


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, options: CloudOptions) -> None:
        self.state = CloudState(options, time.time)
        self.api = Api(self.state)
        super().__init__((options.host, options.port), Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def server_close(self) -> None:
        super().server_close()
        self.state.close()

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        # Clients may hang up; any other error is a defect and must be visible.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One keep-alive connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    # Header and body leave in one packet; otherwise Nagle and delayed ACK add latency.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        path, query = parse_address(self.path)
        request = Request(
            method=self.command,
            path=path,
            query=query,
            headers=self.headers,  # type: ignore[arg-type]  # a Message is a mapping of str
            body=self.rfile.read(size) if size else b"",
            url=self.server.url,
        )
        try:
            self._send(self.server.api.respond(request))
        except Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815  # http.server's names

    def _send(self, reply: Reply) -> None:
        content = reply.content
        self.send_response(reply.status)
        self.send_header("X-Request-Id", uuid.uuid4().hex)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        html = isinstance(reply.body, bytes)
        self.send_header("Content-Type", "text/html" if html else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply.truncated else content)
        self.wfile.flush()
        if reply.truncated:
            raise Dropped

    def log_message(self, *_: object) -> None:
        """No access log: `/admin/books` reports all calls."""


@contextmanager
def running_cloud(options: CloudOptions) -> Iterator[Server]:
    """The cloud in threads of this process; the server's `url` is its address."""
    with Server(options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serve(options: CloudOptions) -> None:
    """Run in the foreground until KeyboardInterrupt; prints the URL and the login."""
    with Server(options) as server, suppress(KeyboardInterrupt):
        for line in _welcome(options, server.url):
            print(line, flush=True)  # noqa: T201  # program output
        server.serve_forever()


def _welcome(options: CloudOptions, url: str) -> list[str]:
    files = "image files are checked" if options.s3_endpoint else "image files are not checked"
    return [
        f"sandbox cloud (a simulation of IAM and IMS): {url}/v3",
        f"  user {options.user}, domain {options.domain}, project {options.project}; {files}",
        f"  state and counters: curl {url}/admin/books",
    ]
