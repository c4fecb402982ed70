"""Tasks that list buckets page by page and import new, complete objects.

Each page is a task of its own, so the size of a bucket does not matter. A run that is interrupted
is only late: the next one starts at the first page, and the ledger knows what was imported.
"""

import logging
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from celery import Celery
from redis import RedisError

from ims_config import names
from ims_config.import_request import InvalidRequest
from ims_config.records import ImportRecord
from ims_config.signatures import import_flow
from ims_config.worker_reports import BucketRuleReport, BucketRulesReport, WorkerReply
from ims_ledger.errors import KeyConflict, LedgerUnavailable
from ims_ledger.imported_objects import Imported
from ims_worker import bootstrap
from ims_worker.adapters.obs import ObjectStorage, StorageProblem
from ims_worker.bootstrap import Services
from ims_worker.bucket_rules import (
    InvalidRules,
    Rule,
    Rules,
    StoredObject,
    parse_rules,
    whole_objects,
)

logger = logging.getLogger(__name__)

# A run that takes longer for one page is considered dead.
RUN_LEASE: Final = timedelta(minutes=5)


def register(app: Celery) -> None:
    # An outage of Redis or the ledger: one log line, and the next run repeats the work.
    quiet: dict[str, Any] = {"send_events": False, "throws": (RedisError, LedgerUnavailable)}
    app.task(name=names.WATCH, bind=True, **quiet)(watch)
    app.task(name=names.WATCH_PAGE, bind=True, **quiet)(watch_page)
    app.task(name=names.WATCH_OBJECT, bind=True, **quiet)(watch_object)
    app.task(name=names.CHECK_WATCH, ignore_result=False, **quiet)(check_watch)


def read_rules(services: Services) -> Rules | None:
    """Read the rules file of this worker. Raises InvalidRules."""
    file = services.settings.watch_file
    if file is None:
        return None
    try:
        return parse_rules(file.read_text(), filename=file.name)
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRules(f"{file}: {exc}") from exc


def _usable_rules(services: Services) -> Sequence[Rule]:
    try:
        rules = read_rules(services)
    except InvalidRules as exc:
        logger.error("bucket rules are invalid", extra={"reason": str(exc)})  # noqa: TRY400  # a traceback adds nothing
        return ()
    return rules.rules if rules else ()


def watch(self: Any) -> None:
    """Start a run for each rule that has none."""
    services = bootstrap.services()
    for rule in _usable_rules(services):
        run = uuid.uuid4().hex
        if services.redis.set(_key(rule.name), run, nx=True, px=RUN_LEASE):
            self.app.send_task(names.WATCH_PAGE, [rule.name, run, ""])


def watch_page(self: Any, rule_name: str, run: str, after: str) -> None:
    """Import the new objects of one page of a bucket, the page after the key `after`."""
    services = bootstrap.services()
    key = _key(rule_name)
    if services.redis.get(key) != run.encode():
        # A late copy of a message, or a dead run.
        return
    services.redis.pexpire(key, RUN_LEASE)
    rule = next((rule for rule in _usable_rules(services) if rule.name == rule_name), None)
    last = None if rule is None else _poll_page(self.app, services, rule, after)
    if last is None:
        services.redis.delete(key)
    else:
        self.app.send_task(names.WATCH_PAGE, [rule_name, run, last])


def _poll_page(app: Celery, services: Services, rule: Rule, after: str) -> str | None:
    """Returns the last key of the page; None for the last page."""
    storage = services.storage
    try:
        page = storage.page(rule.bucket, rule.prefix, after=after)
        objects = {found.key: found for found in page.objects}
        markers = {
            marked: found
            for found in page.objects
            if (marked := rule.marked_by(found.key)) is not None
        }
        # If object and marker are on different pages, the page of the marker imports it.
        for marked in markers.keys() - objects.keys():
            item, _ = storage.find(rule.bucket, marked)
            if item is not None:
                objects[marked] = item
    except StorageProblem as exc:
        logger.error("the bucket was not listed", extra={"rule": rule.name, "reason": str(exc)})  # noqa: TRY400  # a traceback adds nothing
        return None
    _import(app, services, rule, whole_objects(rule, objects.values(), markers, page.now))
    return page.objects[-1].key if page.more else None


def watch_object(self: Any, bucket: str, key: str) -> None:
    """Check one object now because an event reports a change.

    The event is only a trigger: the bucket decides whether the object is imported.
    """
    services = bootstrap.services()
    for rule in _usable_rules(services):
        target = rule.marked_by(key) or key
        if rule.bucket != bucket or not rule.matches(target):
            continue
        try:
            found, now = services.storage.find(bucket, target)
            marker = services.storage.find(bucket, target + rule.marker)[0] if rule.marker else None
        except StorageProblem as exc:
            logger.error("the object was not read", extra={"rule": rule.name, "reason": str(exc)})  # noqa: TRY400  # as above
            continue
        if found is not None:
            markers = {target: marker} if marker else {}
            _import(self.app, services, rule, whole_objects(rule, [found], markers, now))


def _import(app: Celery, services: Services, rule: Rule, objects: Iterable[StoredObject]) -> None:
    """Record an import for each object whose content was not imported yet."""
    complete = {rule.image_url(found.key): found for found in objects}
    known = services.ledger.imported_objects.etags(rule.name, complete)
    imported = []
    for url, found in complete.items():
        if known.get(url) == found.etag:
            continue
        record = _record(app, services, rule, found)
        if record is not None:
            imported.append(Imported(url, found.etag, record.id))
    services.ledger.imported_objects.remember(rule.name, imported)


def _record(
    app: Celery, services: Services, rule: Rule, found: StoredObject
) -> ImportRecord | None:
    key = rule.idempotency_key(found)
    try:
        request = rule.request_for(found)
        record, created = services.ledger.imports.record(
            request, key=key, requested_by=f"watch:{rule.name}"
        )
    except InvalidRequest as exc:
        logger.warning(
            "object cannot be imported",
            extra={"rule": rule.name, "key": found.key, "reason": "; ".join(exc.problems)},
        )
        return None
    except KeyConflict as exc:
        # Imported before the rule was changed.
        return exc.current
    if created:
        logger.info("object found", extra={"rule": rule.name, "key": found.key, "id": record.id})
        # The sweep replaces a lost message.
        import_flow(app, record).apply_async()
    return record


def check_watch() -> dict[str, object]:
    """Check whether the bucket of each rule can be listed."""
    services = bootstrap.services()
    try:
        rules = _checked_rules(services)
    except InvalidRules as exc:
        rules = (BucketRuleReport(problem=str(exc)),)
    return WorkerReply(report=BucketRulesReport(rules=rules)).model_dump(mode="json")


def _checked_rules(services: Services) -> tuple[BucketRuleReport, ...]:
    rules = read_rules(services)
    return tuple(_checked(services.storage, rule) for rule in (rules.rules if rules else ()))


def _checked(storage: ObjectStorage, rule: Rule) -> BucketRuleReport:
    problem = None
    try:
        storage.page(rule.bucket, rule.prefix, after="", limit=1)
    except StorageProblem as exc:
        problem = str(exc)
    location = f"{rule.bucket}:{rule.prefix}*{rule.suffix}"
    return BucketRuleReport(rule=rule.name, location=location, problem=problem)


def _key(rule_name: str) -> str:
    return f"{names.WATCH_KEY}:{rule_name}"
