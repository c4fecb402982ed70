"""The client over HTTP: the same calls, asked of an API instead of ledger and broker."""

import builtins
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from ims_config.import_request import (
    ImportRequest,
    InvalidRequest,
    parse_request,
    parse_webhook_url,
)
from ims_config.records import Event, ImportRecord, ImportResult, Scope, State
from ims_config.settings import PREFIX, ClientSettings
from ims_config.webhooks import WebhookEvent
from ims_ledger.api_keys import ApiKey
from ims_ledger.errors import (
    InvalidState,
    KeyConflict,
    NotFound,
)
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.checks import Check
from ims_producer.client import Client, Submission, WorkerRefused
from ims_producer.errors import ApiUnavailable, KeyRefused

CONNECT_S: Final = 5
# Longer than a worker that is asked for something may take.
ANSWER_S: Final = 330
TRIES: Final = 4
PAGE: Final = 200
# 422: ids that nothing can have.
_NO_SUCH: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY})


class RemoteClient(Client):
    """What `Client()` is with IMS_IMPORT_API_URL. May also raise KeyRefused and ApiUnavailable."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or ClientSettings()
        super().__init__(settings)
        self._url = str(settings.api_url).rstrip("/")
        self._key = settings.api_key

    @cached_property
    def _session(self) -> requests.Session:
        """Tries again what may be tried again: reading, and asking under a key."""
        return self._open(
            Retry(
                total=TRIES,
                backoff_factor=0.3,
                backoff_jitter=0.3,
                status_forcelist=(HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE),
                allowed_methods=None,
                raise_on_status=False,
                redirect=0,
            )
        )

    @cached_property
    def _once(self) -> requests.Session:
        return self._open(Retry(total=0, redirect=0, raise_on_redirect=False))

    def _open(self, tries: Retry) -> requests.Session:
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=tries))
        if self._key is not None:
            session.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return session

    # --- asking and reading -----------------------------------------------------------------

    def submit_import(
        self,
        request: ImportRequest | Mapping[str, Any],
        *,
        key: str | None = None,
        requested_by: str | None = None,  # noqa: ARG002  # the API knows it by its key
    ) -> Submission:
        wanted = request if isinstance(request, ImportRequest) else parse_request(request)
        # A key of our own makes it safe to ask again when the answer was lost.
        headers = {"Idempotency-Key": key or f"http-{uuid.uuid4()}"}
        answer = self._call(
            self._session, "POST", "/v1/imports", json=wanted.as_message(), headers=headers
        )
        if answer.status_code == HTTPStatus.CONFLICT:
            self._conflict(answer)
        self._check(answer)
        created = answer.status_code == HTTPStatus.ACCEPTED
        return Submission(ImportRecord.model_validate(answer.json()), created, queued=True)

    def _conflict(self, answer: requests.Response) -> NoReturn:
        existing = answer.json().get("import_id")
        raise KeyConflict(self.get(str(existing)))

    def get(self, import_id: str) -> ImportResult:
        return ImportResult.model_validate(self._of_import("GET", import_id))

    def events(self, import_id: str, *, after: int = 0) -> builtins.list[Event]:
        told = self._of_import("GET", import_id, "/events", params={"after": after})
        return [Event.model_validate(event) for event in told["items"]]

    def list(
        self,
        *,
        states: Collection[State] = (),
        name: str | None = None,
        cloud: str | None = None,
        limit: int = 50,
        before: str | None = None,
        **narrower: Any,
    ) -> builtins.list[ImportRecord]:
        if before is not None or narrower:
            raise ValueError("over HTTP a list has states, name, cloud and limit")
        query = {"state": [*states], "name": name, "cloud": cloud}
        found: builtins.list[ImportRecord] = []
        cursor = None
        while len(found) < limit:
            some = min(limit - len(found), PAGE)
            page = self._get("/v1/imports", params=query | {"limit": some, "cursor": cursor})
            found += [ImportRecord.model_validate(item) for item in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        return found

    def named(self, names: Collection[str]) -> builtins.list[ImportRecord]:
        wanted = sorted(set(names))
        found: builtins.list[ImportRecord] = []
        for start in range(0, len(wanted), PAGE):
            found += self._find(names=wanted[start : start + PAGE])
        return found

    def with_keys_from(self, prefix: str) -> builtins.list[ImportRecord]:
        return list(self._find(keys_from=prefix))

    def _find(self, **body: Any) -> Iterator[ImportRecord]:
        # It only reads.
        answer = self._call(self._session, "POST", "/v1/imports:find", json=body)
        self._check(answer)
        return (ImportRecord.model_validate(item) for item in answer.json()["items"])

    # --- deciding ---------------------------------------------------------------------------

    def cancel(
        self, import_id: str, *, leave_image: bool = False, by: str | None = None
    ) -> ImportResult:
        del by
        return self._decide(import_id, "/cancel", {"leave_image": leave_image})

    def retry(self, import_id: str, *, by: str | None = None) -> ImportResult:
        del by
        return self._decide(import_id, "/retry", None)

    def resolve(
        self,
        import_id: str,
        *,
        resubmit: bool = False,
        image_id: str | None = None,
        by: str | None = None,
    ) -> ImportResult:
        del by
        body = {"how": "resubmit" if resubmit else "fail"}
        if image_id is not None:
            body = {"how": "image", "image_id": image_id}
        return self._decide(import_id, "/resolve", body)

    def _decide(self, import_id: str, what: str, body: Any) -> ImportResult:
        answer = self._call(self._once, "POST", f"/v1/imports/{_part(import_id)}{what}", json=body)
        if answer.status_code == HTTPStatus.CONFLICT:
            why = str(answer.json()["detail"]).partition(": ")[2]
            raise InvalidState(self.get(import_id), why)
        self._check(answer, import_id)
        return ImportResult.model_validate(answer.json())

    def adopt(
        self, job_id: str, *, name: str, cloud: str | None = None, by: str | None = None
    ) -> Submission:
        del by
        body = {"job_id": job_id, "name": name, "cloud": cloud}
        answer = self._call(self._session, "POST", "/v1/imports:adopt", json=body)
        self._check(answer)
        created = answer.status_code == HTTPStatus.ACCEPTED
        return Submission(ImportRecord.model_validate(answer.json()), created, queued=True)

    def prune(self, *, older_than: timedelta, only_count: bool = False) -> int:
        body = {"older_than_s": older_than.total_seconds(), "only_count": only_count}
        return int(self._post("/v1/imports:prune", body)["imports"])

    # --- what a worker is asked -------------------------------------------------------------

    def resume(self, cloud: str | None = None, *, timeout: float = 30) -> int:
        del timeout
        return int(self._post("/v1/clouds:resume", {"cloud": cloud})["waited"])

    def gc(
        self,
        cloud: str | None = None,
        *,
        delete: bool = False,
        unknown: bool = False,
        timeout: float = 300,
    ) -> dict[str, Any]:
        del timeout
        body = {"cloud": cloud, "delete": delete, "unknown": unknown}
        found: dict[str, Any] = self._post("/v1/clouds:gc", body)
        return found

    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float = 60
    ) -> builtins.list[dict[str, Any]]:
        del timeout
        found: builtins.list[dict[str, Any]] = []
        wanted = sorted(set(names))
        for start in range(0, len(wanted), PAGE):
            body = {"cloud": cloud, "names": wanted[start : start + PAGE]}
            found += self._post("/v1/clouds:find-images", body)["images"]
        return found

    def run_checks(self, clouds: Sequence[str | None], *, migrate: bool) -> Iterator[Check]:
        if migrate:
            raise InvalidRequest(
                f"--migrate: only where the ledger is, without {PREFIX}API_URL; given: {self._url}"
            )
        try:
            told = self._get("/v1/doctor", params={"cloud": [name for name in clouds if name]})
        except KeyRefused as exc:
            yield Check(
                name="api", ok=False, found=str(exc), about="credentials",
                fix=f"Set {PREFIX}API_KEY to a key with the scope admin (ims-import keys create).",
            )  # fmt: skip
            return
        except ApiUnavailable as exc:
            fix = f"Start ims-import api, or correct {PREFIX}API_URL."
            yield Check(name="api", ok=False, found=str(exc), fix=fix)
            return
        yield Check(name="api", ok=True, found=f"{self._url} answers")
        for check in told["items"]:
            yield Check(**check)

    # --- keys -------------------------------------------------------------------------------

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        body = {
            "name": name,
            "scopes": sorted(scopes),
            "clouds": None if clouds is None else sorted(clouds),
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        made = self._post("/v1/keys", body)
        [key] = [key for key in self.keys() if key.id == made["id"]]
        return key, made["key"]

    def keys(self) -> builtins.list[ApiKey]:
        return [ApiKey.model_validate(item) for item in self._get("/v1/keys")["items"]]

    def revoke_key(self, key_id: str) -> ApiKey:
        answer = self._call(self._session, "POST", f"/v1/keys/{_part(key_id)}/revoke")
        if answer.status_code in _NO_SUCH:
            raise NotFound("key", key_id)
        self._check(answer)
        return ApiKey.model_validate(answer.json())

    # --- webhooks ---------------------------------------------------------------------------

    def webhooks(self) -> builtins.list[Webhook]:
        return [Webhook.model_validate(item) for item in self._get("/v1/webhooks")["items"]]

    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None = None,
        clouds: Collection[str] | None = None,
    ) -> Webhook:
        body = {
            "url": parse_webhook_url(url),
            "events": None if events is None else sorted(events),
            "clouds": None if clouds is None else sorted(clouds),
        }
        return Webhook.model_validate(self._post("/v1/webhooks", body))

    def remove_webhook(self, webhook_id: str) -> None:
        answer = self._call(self._session, "DELETE", f"/v1/webhooks/{_part(webhook_id)}")
        if answer.status_code in _NO_SUCH:
            raise NotFound("webhook", webhook_id)
        if answer.status_code != HTTPStatus.NO_CONTENT:
            self._check(answer)

    def rotate_webhook(self, url: str) -> str:
        return str(self._post("/v1/webhooks:rotate", {"url": parse_webhook_url(url)})["endpoint"])

    def deliveries(
        self,
        *,
        import_id: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 50,
        **narrower: Any,
    ) -> builtins.list[Delivery]:
        query = {"import_id": import_id, "state": state, "limit": limit} | narrower
        items = self._get("/v1/deliveries", params=query)["items"]
        return [Delivery.model_validate(item) for item in items]

    def resend(self, delivery_id: str) -> Delivery:
        path = f"/v1/deliveries/{_part(delivery_id)}/resend"
        answer = self._call(self._session, "POST", path)
        if answer.status_code in _NO_SUCH:
            raise NotFound("delivery", delivery_id)
        self._check(answer)
        return Delivery.model_validate(answer.json())

    # --- buckets ----------------------------------------------------------------------------

    def look_at_object(self, bucket: str, key: str) -> None:
        place = {"bucket": {"name": bucket}, "object": {"key": quote(key)}}
        self._post("/v1/events/obs", {"Records": [{"eventName": "ObjectCreated", "s3": place}]})

    # --- one call ---------------------------------------------------------------------------

    def _get(self, path: str, **options: Any) -> Any:
        answer = self._call(self._session, "GET", path, **options)
        self._check(answer)
        return answer.json()

    def _post(self, path: str, body: Any) -> Any:
        answer = self._call(self._once, "POST", path, json=body)
        self._check(answer)
        return answer.json()

    def _of_import(self, method: str, import_id: str, what: str = "", **options: Any) -> Any:
        path = f"/v1/imports/{_part(import_id)}{what}"
        answer = self._call(self._session, method, path, **options)
        self._check(answer, import_id)
        return answer.json()

    def _call(
        self, session: requests.Session, method: str, path: str, **options: Any
    ) -> requests.Response:
        try:
            return session.request(
                method,
                self._url + path,
                timeout=(CONNECT_S, ANSWER_S),
                allow_redirects=False,
                **options,
            )
        except requests.RequestException as exc:
            raise ApiUnavailable(f"{self._url}: {type(exc).__name__}") from exc

    def _check(self, answer: requests.Response, import_id: str | None = None) -> None:
        """Raise what the direct client would."""
        if answer.ok and answer.headers.get("Content-Type", "").startswith("application/json"):
            return
        problem = _problem(answer)
        detail = str(problem.get("detail") or f"HTTP {answer.status_code}, which is not our API")
        match answer.status_code:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise KeyRefused(_with_fields(detail, problem))
            case HTTPStatus.NOT_FOUND if import_id is not None and problem:
                raise NotFound("import", import_id)
            case HTTPStatus.UNPROCESSABLE_ENTITY if import_id is not None:
                # Ids that no import can have.
                raise NotFound("import", import_id)
            case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
                raise InvalidRequest(_with_fields("", problem) or detail)
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise InvalidRequest(detail)
            case HTTPStatus.FAILED_DEPENDENCY:
                said, _, hint = detail.partition("; ")
                raise WorkerRefused(said, hint)
            case _:
                raise ApiUnavailable(f"{self._url}: {detail}")

    def ping(self) -> None:
        self._check(self._call(self._session, "GET", "/readyz"))

    def close(self) -> None:
        for name in ("_session", "_once"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


def _problem(answer: requests.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _with_fields(detail: str, problem: Mapping[str, Any]) -> str:
    fields = [f"{error['field']}: {error['detail']}" for error in problem.get("errors") or ()]
    return "\n".join(filter(None, [detail, *fields]))


def _part(text: str) -> str:
    return quote(text, safe="")
