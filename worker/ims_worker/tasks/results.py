"""What Celery applications get for an import: its result, its failure, or its progress."""

from dataclasses import dataclass

from ims_config.records import ImportResult


@dataclass(frozen=True, slots=True)
class FinalResult:
    """The final record of a succeeded import."""

    result: ImportResult

    def __json__(self) -> dict[str, object]:
        """Called by kombu's JSON encoder."""
        return self.result.model_dump(mode="json")

    def __repr__(self) -> str:
        """As Celery's events, and with them Flower, show it."""
        return f"image {self.result.image_id}"


class ImportFailed(Exception):
    """An import that FAILED or was CANCELED.

    The arguments are plain JSON, so that an application without this package can read them: the
    code, the cloud's reason, and an object with hint, request_id, http_status, class, import_id.
    """

    def __init__(self, code: str, reason: str, details: dict[str, object]) -> None:
        super().__init__(code, reason, details)

    def __repr__(self) -> str:
        """As Celery's events, and with them Flower, show it."""
        code, reason, _ = self.args
        return f"{code}: {reason}"


class NotYet(Exception):
    """RETRY payload shown while the import runs."""


def failure_of(result: ImportResult) -> ImportFailed:
    if result.error is None:
        reason = result.reason or f"the import was {result.state}"
        return ImportFailed(str(result.state), reason, {"import_id": result.id})
    details = result.error.model_dump(mode="json", exclude={"code", "message"})
    return ImportFailed(result.error.code, result.error.message, details | {"import_id": result.id})
