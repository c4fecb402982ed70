"""Looks at the image file in the bucket, as IMS does, and says what is wrong with it."""

import re
from dataclasses import dataclass
from typing import Any, Final

# How much of a file its format and size can be read from.
_ENOUGH: Final = 4 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_GIB: Final = 1024**3
_MAX_FILE: Final = 128 * _GIB
# What the suffix promises; a file without one of these may be raw.
_FORMATS: Final = {
    "qcow2": {"qcow2"}, "qcow": {"qcow", "qcow2"}, "vmdk": {"vmdk"}, "vhd": {"vhd"},
    "vhdx": {"vhdx"}, "vdi": {"vdi"}, "qed": {"qed"}, "iso": {"iso"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why the job fails."""

    code: str
    message: str


NOT_READABLE: Final = Flaw(
    "IMG.0057",
    "The image file is empty, not found, or in incorrect format, or you do not have enough "
    "permission to access the file.",
)
UNSUPPORTED: Final = Flaw("IMG.0072", "The image format is not supported.")
TOO_LARGE: Final = Flaw("IMG.0059", "The image file is larger than 128 GB.")


class Bucket:
    """The sandbox's object storage."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        import boto3  # noqa: PLC0415  # a third of a second, paid only where files are looked at
        from botocore.config import Config  # noqa: PLC0415  # as above

        self._s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
            config=Config(
                connect_timeout=3,
                read_timeout=10,
                max_pool_connections=20,
                s3={"addressing_style": "path"},
            ),
        )

    def flaw_of(self, image_url: str, min_disk_gib: int) -> Flaw | None:
        """What is wrong with a file for a disk of that size; None when IMS would take it."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # as above

        bucket, _, key = image_url.partition(":")
        try:
            answer = self._s3.get_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError):
            return NOT_READABLE
        return _judge(answer["Body"], key, answer["ContentLength"], min_disk_gib)


def _judge(stream: Any, key: str, size: int, min_disk_gib: int) -> Flaw | None:
    if size == 0:
        return NOT_READABLE
    if size > _MAX_FILE:
        return TOO_LARGE
    found, virtual_size = _inspect(stream)
    suffix = (re.search(r"\.(\w+)$", key.lower()) or ["", ""])[1]
    if found == "luks":
        return UNSUPPORTED
    if suffix in _FORMATS and found not in _FORMATS[suffix]:
        return NOT_READABLE
    disk = size if found in ("raw", "gpt", "iso") else virtual_size
    if disk > min_disk_gib * _GIB:
        # Which code OTC gives is documented nowhere; the text names the numbers.
        return Flaw(
            "IMG.0055",
            f"The disk in the file ({-(-disk // _GIB)} GB) is larger than min_disk "
            f"({min_disk_gib} GB).",
        )
    return None


def _inspect(stream: Any) -> tuple[str, int]:
    """Format and virtual size in bytes of the image that begins here."""
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415  # only where files are

    wrapper = format_inspector.InspectWrapper(stream)
    read = 0
    while read < _ENOUGH and (chunk := wrapper.read(_CHUNK)):
        read += len(chunk)
    # Decides by what was read; the rest of the file is not fetched.
    wrapper.close()
    try:
        inspector = wrapper.format
        return str(inspector), int(inspector.virtual_size) if inspector else 0
    except format_inspector.ImageFormatError:
        return "unknown", 0
