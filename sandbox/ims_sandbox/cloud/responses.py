"""Replies and the error bodies of IMS, IAM and the API gateway, as in their API references."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response before serialization; a body of bytes is sent unchanged."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    """Half of the body is sent, then the connection closes."""

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


NO_CONTENT: Final = Reply(status=204)


class Refusal(Exception):
    """The cloud refuses the request with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status}: {reply.body}")
        self.reply = reply


def ims_error(code: str, message: str, status: int = 400) -> Refusal:
    return Refusal(Reply(status=status, body={"error": {"message": message, "code": code}}))


def iam_error(status: int, message: str, title: str) -> Refusal:
    # IAM sends a number as code, although its reference shows a string.
    return Refusal(
        Reply(status=status, body={"error": {"message": message, "code": status, "title": title}})
    )


def gateway_error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Refusal:
    return Refusal(
        Reply(
            status=status,
            body={"error_msg": message, "error_code": code, "request_id": "sandbox"},
            headers=headers or {},
        )
    )


def admin_error(message: str) -> Refusal:
    """The response to an invalid admin request."""
    return Refusal(Reply(status=400, body={"error": {"message": message}}))


def unauthorized() -> Refusal:
    return gateway_error(401, "APIGW.0307", "The token must be updated.")
