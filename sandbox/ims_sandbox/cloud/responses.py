"""The shapes of answers: IMS's, IAM's and the gateway's errors, as their references show them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer before it is bytes; a body of bytes is sent as it is."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """The cloud says no; `reply` is how."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status}: {reply.body}")
        self.reply = reply


def ims_error(code: str, message: str, status: int = 400) -> Refusal:
    return Refusal(Reply(status=status, body={"error": {"message": message, "code": code}}))


def iam_error(status: int, message: str, title: str) -> Refusal:
    # A number as code: this is what IAM really sends, whatever its reference says.
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


def admin_error(exc: Exception) -> Refusal:
    """What the sandbox was told cannot be."""
    return Refusal(Reply(status=400, body={"error": {"message": str(exc)}}))


def unauthorized() -> Refusal:
    return gateway_error(401, "APIGW.0307", "The token must be updated.")
