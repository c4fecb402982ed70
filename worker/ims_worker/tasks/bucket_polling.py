"""The tasks that watch buckets: list a page, import what is new and whole, go on with the next.

A page is a task, so that a bucket of any size needs no memory, and a run that is cut off is only
late: the next one begins at the beginning, and what was imported is known.
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

# A run that has not come to its next page for so long is over.
RUN_LEASE: Final = timedelta(minutes=5)


def register(app: Celery) -> None:
    """Add the tasks to a worker's app."""
    # Redis or ledger gone: a line in the log, and the next run does it.
    quiet: dict[str, Any] = {"send_events": False, "throws": (RedisError, LedgerUnavailable)}
    app.task(name=names.WATCH, bind=True, **quiet)(watch)
    app.task(name=names.WATCH_PAGE, bind=True, **quiet)(watch_page)
    app.task(name=names.WATCH_OBJECT, bind=True, **quiet)(watch_object)
    app.task(name=names.CHECK_WATCH, ignore_result=False, **quiet)(check_watch)


def read_rules(services: Services) -> Rules | None:
    """The rules of this worker, as they are in the file now. Raises InvalidRules."""
    file = services.settings.watch_file
    if file is None:
        return None
    try:
        return parse_rules(file.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRules(f"{file}: {exc}") from exc


def _usable_rules(services: Services) -> Sequence[Rule]:
    try:
        rules = read_rules(services)
    except InvalidRules as exc:
        logger.error("watch rules cannot be used", extra={"why": str(exc)})  # noqa: TRY400  # no traceback for a typing error
        return ()
    return rules.rules if rules else ()


def watch(self: Any) -> None:
    """Begin to list the bucket of each rule, unless that is being done."""
    services = bootstrap.services()
    for rule in _usable_rules(services):
        run = uuid.uuid4().hex
        if services.redis.set(_key(rule.name), run, nx=True, px=RUN_LEASE):
            self.app.send_task(names.WATCH_PAGE, [rule.name, run, ""])


def watch_page(self: Any, rule_name: str, run: str, after: str) -> None:
    """Import what is new on one page of a bucket, behind the key `after`."""
    services = bootstrap.services()
    key = _key(rule_name)
    if services.redis.get(key) != run.encode():
        # A late copy of a message, or a run that took too long.
        return
    services.redis.pexpire(key, RUN_LEASE)
    rule = next((rule for rule in _usable_rules(services) if rule.name == rule_name), None)
    last = None if rule is None else _look_at_page(self.app, services, rule, after)
    if last is None:
        services.redis.delete(key)
    else:
        self.app.send_task(names.WATCH_PAGE, [rule_name, run, last])


def _look_at_page(app: Celery, services: Services, rule: Rule, after: str) -> str | None:
    """The key to go on behind; None when this was the last page."""
    storage = services.storage
    try:
        page = storage.page(rule.bucket, rule.prefix, after=after)
        objects = {found.key: found for found in page.objects}
        markers = {
            marked: found
            for found in page.objects
            if (marked := rule.marked_by(found.key)) is not None
        }
        # An object and its marker may be on different pages: the marker's is the one that counts.
        for marked in markers.keys() - objects.keys():
            there, _ = storage.find(rule.bucket, marked)
            if there is not None:
                objects[marked] = there
    except StorageProblem as exc:
        logger.error("bucket not listed", extra={"rule": rule.name, "why": str(exc)})  # noqa: TRY400  # the cloud's words say it
        return None
    _import(app, services, rule, whole_objects(rule, objects.values(), markers, page.now))
    return page.objects[-1].key if page.more else None


def watch_object(self: Any, bucket: str, key: str) -> None:
    """Look at one object now, because somebody said that it has changed.

    What was said is only a reason to look: what counts is what the bucket shows.
    """
    services = bootstrap.services()
    for rule in _usable_rules(services):
        meant = rule.marked_by(key) or key
        if rule.bucket != bucket or not rule.matches(meant):
            continue
        try:
            found, now = services.storage.find(bucket, meant)
            marker = services.storage.find(bucket, meant + rule.marker)[0] if rule.marker else None
        except StorageProblem as exc:
            logger.error("object not found", extra={"rule": rule.name, "why": str(exc)})  # noqa: TRY400  # as above
            continue
        if found is not None:
            markers = {meant: marker} if marker else {}
            _import(self.app, services, rule, whole_objects(rule, [found], markers, now))


def _import(app: Celery, services: Services, rule: Rule, objects: Iterable[StoredObject]) -> None:
    """Ask for an import of each object that has not been imported as it is now."""
    whole = {rule.image_url(found.key): found for found in objects}
    known = services.ledger.imported_objects.etags(rule.name, whole)
    imported = []
    for url, found in whole.items():
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
            extra={"rule": rule.name, "key": found.key, "why": "; ".join(exc.problems)},
        )
        return None
    except KeyConflict as exc:
        # It was imported before the rule was changed.
        return exc.current
    if created:
        logger.info("object found", extra={"rule": rule.name, "key": found.key, "id": record.id})
        # A message that gets lost is found missing by the sweep.
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
