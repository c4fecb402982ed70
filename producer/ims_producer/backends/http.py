"""The HTTP backend: sends each operation to the HTTP API; needs neither ledger nor broker."""

import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import requests
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from ims_config.import_request import ImportRequest, InvalidRequest
from ims_config.records import Event, ImportRecord, ImportResult, Scope
from ims_config.settings import PREFIX, ClientSettings
from ims_config.validation import FieldError
from ims_config.webhooks import WebhookEvent
from ims_config.worker_reports import FoundImage, FoundImages, GcReport, ResumeReport
from ims_ledger.api_keys import ApiKey
from ims_ledger.errors import ConcurrentTransition, InvalidState, KeyConflict, Kind, NotFound
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.backends.protocol import AdoptedLedger, ImportFilter, Submission
from ims_producer.checks import Check
from ims_producer.errors import ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable
from ims_producer.http_contract import (
    Checks,
    CreatedKey,
    DeliveryList,
    Endpoint,
    Events,
    FoundImports,
    Keys,
    Page,
    Problem,
    ProblemCode,
    Pruned,
    Readiness,
    WebhookList,
)

CONNECT_S: Final = 5
# Longer than any operation of a worker may take.
RESPONSE_S: Final = 330
RETRIES: Final = 4
PAGE_SIZE: Final = 200
# Other ids cannot exist, and could change the path.
_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
Body = Mapping[str, object]
Query = Mapping[str, str | int | Sequence[str] | None]
Model = TypeVar("Model", bound=BaseModel)


class _Content(TypedDict, total=False):
    """Arguments of `requests.Session.request`."""

    json: Body | None
    params: Query
    headers: Mapping[str, str]
    timeout: tuple[float, float]


class HttpBackend:
    """Every method may raise KeyRefused and ApiUnavailable."""

    def __init__(self, settings: ClientSettings) -> None:
        self._url = str(settings.api_url).rstrip("/")
        self._key = settings.api_key
        # For what may be repeated: reads, and writes with an idempotency key.
        self._retrying = self._open(
            Retry(
                total=RETRIES,
                backoff_factor=0.3,
                backoff_jitter=0.3,
                status_forcelist=(HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE),
                allowed_methods=None,
                raise_on_status=False,
                redirect=0,
            )
        )
        self._once = self._open(Retry(total=0, redirect=0, raise_on_redirect=False))

    def _open(self, retries: Retry) -> requests.Session:
        session = requests.Session()
        session.mount(self._url, HTTPAdapter(max_retries=retries))
        if self._key is not None:
            session.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return session

    def close(self) -> None:
        self._retrying.close()
        self._once.close()

    # --- imports ----------------------------------------------------------------------------

    def submit_import(
        self, request: ImportRequest, *, key: str | None, requested_by: str | None
    ) -> Submission:
        del requested_by  # The API derives it from its key.
        # Without a key of the caller, a generated one makes retries safe.
        headers = {"Idempotency-Key": key or f"http-{uuid.uuid4()}"}
        response = self._send("POST", "/v1/imports", json=request.as_message(), headers=headers)
        return _submission(response)

    def get(self, import_id: str) -> ImportResult:
        path = f"/v1/imports/{_checked('import', import_id)}"
        return _parse(ImportResult, self._send("GET", path))

    def events(self, import_id: str, *, after: int) -> list[Event]:
        path = f"/v1/imports/{_checked('import', import_id)}/events"
        return _parse(Events, self._send("GET", path, params={"after": after})).items

    def list_imports(
        self, *, limit: int, before: str | None, **filters: Unpack[ImportFilter]
    ) -> list[ImportRecord]:
        tag = filters.get("tag")
        query: dict[str, str | int | Sequence[str] | None] = {
            "state": [*filters.get("states", ())],
            "name": filters.get("name"),
            "cloud": filters.get("cloud"),
            "tag": None if tag is None else "=".join(tag),
            "created_after": _text(filters.get("created_after")),
            "created_before": _text(filters.get("created_before")),
        }
        records: list[ImportRecord] = []
        cursor = None if before is None else _checked("import", before)
        while len(records) < limit:
            size = min(limit - len(records), PAGE_SIZE)
            query |= {"limit": size, "cursor": cursor}
            page = _parse(Page, self._send("GET", "/v1/imports", params=query))
            records += page.items
            cursor = page.next
            if cursor is None:
                break
        return records

    def named(self, names: Collection[str]) -> list[ImportRecord]:
        return [record for some in _batches(names) for record in self._find({"names": some})]

    def with_keys_from(self, prefix: str) -> list[ImportRecord]:
        return self._find({"keys_from": prefix})

    def _find(self, body: Body) -> list[ImportRecord]:
        return _parse(FoundImports, self._send("POST", "/v1/imports:find", json=body)).items

    # --- decisions --------------------------------------------------------------------------

    def cancel(self, import_id: str, *, leave_image: bool) -> ImportResult:
        return self._decide(import_id, "cancel", {"leave_image": leave_image})

    def retry(self, import_id: str) -> ImportResult:
        return self._decide(import_id, "retry", None)

    def resolve(self, import_id: str, *, resubmit: bool, image_id: str | None) -> ImportResult:
        body = {"how": "resubmit" if resubmit else "fail"}
        if image_id is not None:
            body = {"how": "image", "image_id": image_id}
        return self._decide(import_id, "resolve", body)

    def _decide(self, import_id: str, action: str, body: Body | None) -> ImportResult:
        path = f"/v1/imports/{_checked('import', import_id)}/{action}"
        return _parse(ImportResult, self._send("POST", path, json=body, repeat=False))

    def adopt(self, job_id: str, *, name: str, cloud: str | None) -> Submission:
        body = {"job_id": job_id, "name": name, "cloud": cloud}
        return _submission(self._send("POST", "/v1/imports:adopt", json=body))

    def prune(self, *, older_than: timedelta, only_count: bool) -> int:
        body = {"older_than_s": older_than.total_seconds(), "only_count": only_count}
        response = self._send("POST", "/v1/imports:prune", json=body, repeat=False)
        return _parse(Pruned, response).imports

    # --- operations of a worker -------------------------------------------------------------

    def resume(self, cloud: str | None, *, timeout: float) -> ResumeReport:
        return self._execute("resume", {"cloud": cloud}, timeout, ResumeReport)

    def gc(self, cloud: str | None, *, delete: bool, unknown: bool, timeout: float) -> GcReport:
        body = {"cloud": cloud, "delete": delete, "unknown": unknown}
        return self._execute("gc", body, timeout, GcReport)

    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float
    ) -> list[FoundImage]:
        images: list[FoundImage] = []
        for some in _batches(names):
            body = {"cloud": cloud, "names": some}
            images += self._execute("find-images", body, timeout, FoundImages).images
        return images

    def _execute(self, action: str, body: Body, timeout: float, report: type[Model]) -> Model:
        path = f"/v1/clouds:{action}"
        try:
            response = self._send(
                "POST", path, json=body, repeat=False, timeout=(CONNECT_S, timeout)
            )
        except ApiUnavailable as exc:
            if isinstance(exc.__cause__, requests.ReadTimeout):
                raise WorkerUnavailable(f"no worker answered within {timeout:.0f} s") from exc
            raise
        return _parse(report, response)

    def notify_object(self, bucket: str, key: str) -> None:
        s3 = {"bucket": {"name": bucket}, "object": {"key": quote(key)}}
        body = {"Records": [{"eventName": "ObjectCreated", "s3": s3}]}
        self._send("POST", "/v1/events/obs", json=body, repeat=False)

    # --- API keys ---------------------------------------------------------------------------

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None,
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        body = {
            "name": name,
            "scopes": sorted(scopes),
            "clouds": _sorted(clouds),
            "expires_at": _text(expires_at),
        }
        created = _parse(CreatedKey, self._send("POST", "/v1/keys", json=body, repeat=False))
        [key] = [key for key in self.keys() if key.id == created.id]
        return key, created.key

    def keys(self) -> list[ApiKey]:
        return _parse(Keys, self._send("GET", "/v1/keys")).items

    def revoke_key(self, key_id: str) -> ApiKey:
        path = f"/v1/keys/{_checked('key', key_id)}/revoke"
        return _parse(ApiKey, self._send("POST", path))

    # --- webhooks ---------------------------------------------------------------------------

    def webhooks(self) -> list[Webhook]:
        return _parse(WebhookList, self._send("GET", "/v1/webhooks")).items

    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None,
        clouds: Collection[str] | None,
    ) -> Webhook:
        body = {"url": url, "events": _sorted(events), "clouds": _sorted(clouds)}
        return _parse(Webhook, self._send("POST", "/v1/webhooks", json=body, repeat=False))

    def remove_webhook(self, webhook_id: str) -> None:
        self._send("DELETE", f"/v1/webhooks/{_checked('webhook', webhook_id)}", repeat=False)

    def rotate_webhook(self, url: str) -> str:
        response = self._send("POST", "/v1/webhooks:rotate", json={"url": url}, repeat=False)
        return _parse(Endpoint, response).endpoint

    def deliveries(
        self, *, import_id: str | None, state: DeliveryState | None, limit: int
    ) -> list[Delivery]:
        query = {"import_id": import_id, "state": state, "limit": limit}
        return _parse(DeliveryList, self._send("GET", "/v1/deliveries", params=query)).items

    def resend(self, delivery_id: str) -> Delivery:
        path = f"/v1/deliveries/{_checked('delivery', delivery_id)}/resend"
        return _parse(Delivery, self._send("POST", path, repeat=False))

    # --- the installation -------------------------------------------------------------------

    def run_checks(self, clouds: Sequence[str], *, migrate: bool) -> Iterator[Check]:
        self._refuse_migration(migrate=migrate)
        query = {"cloud": [*clouds]}
        try:
            reports = _parse(Checks, self._send("GET", "/v1/doctor", params=query)).items
        except KeyRefused as exc:
            fix = f"Set {PREFIX}API_KEY to a key with the scope admin: ims-import keys create"
            yield Check(name="api", ok=False, found=str(exc), fix=fix, about="credentials")
            return
        except ApiUnavailable as exc:
            yield self._unreachable(exc)
            return
        yield Check(name="api", ok=True, found=f"{self._url} answers")
        yield from reports

    def adopt_ledger(self) -> AdoptedLedger:
        raise self._only_beside_the_ledger("ledger adopt")

    def check_ledger(self, *, migrate: bool) -> Check:
        self._refuse_migration(migrate=migrate)
        try:
            response = self._request("GET", "/readyz", repeat=False)
            ledger = _parse(Readiness, response).ledger
        except ApiUnavailable as exc:
            return self._unreachable(exc)
        if ledger == "ok":
            return Check(name="ledger", ok=True, found=f"{self._url}: the API can use its ledger")
        return Check(
            name="ledger",
            ok=False,
            found=f"{self._url}: the ledger of the API is {ledger.replace('_', ' ')}",
            fix=f"Run where the API runs, without {PREFIX}API_URL: ims-import doctor",
        )

    def _refuse_migration(self, *, migrate: bool) -> None:
        if migrate:
            raise self._only_beside_the_ledger("--migrate")

    def _only_beside_the_ledger(self, what: str) -> InvalidRequest:
        rule = f"works only where the ledger is, without {PREFIX}API_URL"
        return InvalidRequest(FieldError(what, rule, self._url))

    def _unreachable(self, exc: ApiUnavailable) -> Check:
        fix = f"Start ims-import api, or correct {PREFIX}API_URL."
        return Check(name="api", ok=False, found=str(exc), fix=fix)

    # --- one request ------------------------------------------------------------------------

    def _send(
        self, method: str, path: str, *, repeat: bool = True, **content: Unpack[_Content]
    ) -> requests.Response:
        """Send a request and return the response; raise what the direct backend would."""
        response = self._request(method, path, repeat=repeat, **content)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        if response.status_code != HTTPStatus.NO_CONTENT and not (response.ok and is_json):
            raise self._error(response)
        return response

    def _request(
        self, method: str, path: str, *, repeat: bool, **content: Unpack[_Content]
    ) -> requests.Response:
        session = self._retrying if repeat else self._once
        content.setdefault("timeout", (CONNECT_S, RESPONSE_S))
        try:
            return session.request(method, self._url + path, allow_redirects=False, **content)
        except requests.RequestException as exc:
            raise ApiUnavailable(f"API {self._url}: {type(exc).__name__}") from exc

    def _error(self, response: requests.Response) -> Exception:
        """What the direct backend would raise."""
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            return _not_our_api(response)
        match problem.code:
            case ProblemCode.KEY_CONFLICT if problem.import_id is not None:
                return self._key_conflict(problem, problem.import_id)
            case ProblemCode.INVALID_STATE if problem.record is not None:
                return InvalidState(problem.record, problem.rule or "")
            case ProblemCode.CONCURRENT_CHANGE if problem.record is not None:
                return ConcurrentTransition(problem.record)
            case _ if problem.missing is not None:
                return NotFound(problem.missing.kind, problem.missing.id)
            case _:
                return self._other_error(problem)

    def _key_conflict(self, problem: Problem, import_id: str) -> Exception:
        try:
            return KeyConflict(self.get(import_id))
        except (KeyRefused, NotFound):
            # This API key may submit, but not see the import.
            return _invalid_request(problem)

    def _other_error(self, problem: Problem) -> Exception:
        match problem.code:
            case ProblemCode.UNAUTHENTICATED | ProblemCode.FORBIDDEN:
                return KeyRefused(problem.detail, *map(str, problem.errors))
            case ProblemCode.INVALID_REQUEST | ProblemCode.BODY_TOO_LARGE:
                return _invalid_request(problem)
            case ProblemCode.WORKER_REFUSED if problem.cloud_error is not None:
                return WorkerRefused(problem.cloud_error)
            case ProblemCode.WORKER_UNAVAILABLE:
                return WorkerUnavailable(problem.detail)
            case _:
                return ApiUnavailable(f"API {self._url}: {problem.detail}")


def _invalid_request(problem: Problem) -> InvalidRequest:
    errors = [FieldError(error.field, error.detail) for error in problem.errors]
    return InvalidRequest(*errors or (problem.detail,))


def _not_our_api(response: requests.Response) -> ApiUnavailable:
    return ApiUnavailable(
        f"API {response.url}: HTTP {response.status_code}, not a response of this version's API"
    )


def _parse(model: type[Model], response: requests.Response) -> Model:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as exc:
        raise _not_our_api(response) from exc


def _submission(response: requests.Response) -> Submission:
    created = response.status_code == HTTPStatus.ACCEPTED
    return Submission(_parse(ImportRecord, response), created, queued=True)


def _checked(kind: Kind, id_: str) -> str:
    if not _ID.fullmatch(id_):
        raise NotFound(kind, id_)
    return id_


def _batches(names: Collection[str]) -> Iterator[list[str]]:
    unique = sorted(set(names))
    for start in range(0, len(unique), PAGE_SIZE):
        yield unique[start : start + PAGE_SIZE]


def _sorted(values: Collection[str] | None) -> list[str] | None:
    return None if values is None else sorted(values)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
