"""A bucket of 100,000 objects is listed page by page without growing memory."""

import gc
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from celery import Celery

from ims_config.settings import Settings
from ims_ledger import Ledger
from ims_ledger.imported_objects import Imported
from ims_worker.adapters.obs import ObjectStorage, StorageProblem
from ims_worker.bucket_rules import Rule, parse_rules
from ims_worker.tasks.bucket_polling import _poll_page

OBJECTS = 100_000
PAGE = 1000
HEAD = '<?xml version="1.0"?><ListBucketResult><Name>huge</Name>'
OBJECT = (
    "<Contents><Key>{}</Key><LastModified>2026-11-24T12:00:00.000Z</LastModified>"
    "<ETag>&quot;{}&quot;</ETag><Size>7</Size></Contents>"
)


def key(number: int) -> str:
    return f"images/{number:06}.qcow2"


class _Bucket(BaseHTTPRequestHandler):
    """Lists a hundred thousand generated objects."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        behind = query.get("marker", [""])[0]
        first = int(behind[7:13]) + 1 if behind else 0
        numbers = range(first, min(first + int(query["max-keys"][0]), OBJECTS))
        more = str(numbers.stop < OBJECTS).lower()
        objects = "".join(OBJECT.format(key(number), f"etag-{number}") for number in numbers)
        body = f"{HEAD}<IsTruncated>{more}</IsTruncated>{objects}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def storage() -> Iterator[ObjectStorage]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield ObjectStorage(
        Settings(
            obs_endpoint=f"http://127.0.0.1:{server.server_address[1]}",
            obs_access_key="AK",
            obs_secret_key="SK",
            obs_addressing="path",
        )
    )
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def rule() -> Rule:
    text = {"name": "huge", "bucket": "huge-bucket", "prefix": "images/", "suffix": ".qcow2",
            "request": {"min_disk": 40}}  # fmt: skip
    return parse_rules(yaml.safe_dump({"version": 1, "rules": [text]})).rules[0]


def blocks() -> int:
    """The number of memory blocks that Python has allocated."""
    gc.collect()
    return sys.getallocatedblocks()


def test_every_object_is_listed_and_memory_does_not_grow(
    storage: ObjectStorage, rule: Rule, tmp_path: Path
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    new = OBJECTS - 1
    for start in range(0, OBJECTS, PAGE):
        known = (number for number in range(start, start + PAGE) if number != new)
        ledger.imported_objects.remember(
            rule.name,
            [Imported(rule.image_url(key(number)), f"etag-{number}", "id") for number in known],
        )
    work: Any = SimpleNamespace(ledger=ledger, storage=storage)
    # Messages for the one new object go to an in-memory queue.
    app = Celery(broker="memory://", set_as_current=False)
    after: str | None = ""
    pages, early, late = 0, 0, 0
    while after is not None:
        after = _poll_page(app, work, rule, after)
        pages += 1
        if pages == OBJECTS // PAGE // 10:
            early = blocks()
        if pages == OBJECTS // PAGE - 1:
            late = blocks()
    [record] = ledger.imports.page()
    ledger.close()

    print(f"{pages} pages; {early} blocks of memory after a tenth of them, {late} before the last")
    assert pages == OBJECTS // PAGE
    assert record.image_url == rule.image_url(key(new))
    # The keys of the other 90,000 objects alone would need that many.
    assert late - early < OBJECTS // 10


def test_an_unreachable_storage_is_an_error_that_names_the_bucket(rule: Rule) -> None:
    away = ObjectStorage(
        Settings(obs_endpoint="http://127.0.0.1:1", obs_access_key="AK", obs_secret_key="SK")
    )

    with pytest.raises(StorageProblem, match=r"bucket huge-bucket: .*127.0.0.1:1"):
        away.page(rule.bucket, rule.prefix, after="")


def test_without_keys_the_error_names_the_settings(rule: Rule) -> None:
    with pytest.raises(StorageProblem, match="IMS_IMPORT_OBS_ACCESS_KEY and"):
        ObjectStorage(Settings()).page(rule.bucket, "", after="")
