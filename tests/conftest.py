"""Shared fixtures, longest files first, and a skipped test fails CI."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ims_ledger import Ledger

if TYPE_CHECKING:
    from running import Running

POSTGRES = "IMS_IMPORT_TEST_POSTGRES_URL"
# Files that take longest, so that no xdist worker starts one of them last.
LONGEST = (
    "test_first_run.py",
    "test_shared_token.py",
    "test_webhooks_on_a_stack.py",
    "test_outages.py",
    "test_backends.py",
    "test_readme.py",
    "test_stack.py",
    "test_api_document.py",
    "test_bucket_polling.py",
    "test_api.py",
    "test_manifests.py",
    "test_cli_on_a_stack.py",
    "test_deciding.py",
    "test_chain.py",
    "test_over_http.py",
    "test_how_to.py",
    "test_flower_in_a_browser.py",
    "test_no_secret_leaves.py",
    "test_huge_bucket.py",
    "test_benchmark.py",
    "test_any_response.py",
    "test_any_order.py",
)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'folder' / 'ledger.db'}"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A new schema on the server that the variable names."""
    server = os.environ.get(POSTGRES)
    if server is None:
        if os.environ.get("CI"):
            pytest.fail(f"{POSTGRES} is not set, and in CI nothing may be skipped")
        pytest.skip(f"{POSTGRES} names no server, e.g. postgresql+psycopg://me@localhost/test")
    schema = f"ims_import_{uuid.uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        url = make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
        yield url.render_as_string(hide_password=False)
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture(params=["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger(url)
    ledger.migrate()
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def shared_stack() -> "Iterator[Running]":
    """One stack per test process; it serves every file that needs no special settings."""
    # Imported here, because unit tests need neither the sandbox nor the API.
    from running import Running  # noqa: PLC0415

    settings = {"POLL_FIRST_S": "0.3", "POLL_MAX_S": "1", "API_RATE_PER_MINUTE": "1000000"}
    with Running.start(api=True, settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def running(shared_stack: "Running") -> "Iterator[Running]":
    """The shared stack; the sandbox cloud is as at the start before and after the file."""
    yield shared_stack
    shared_stack.reset_cloud()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """The folder of files that CI keeps for people."""
    folder = Path(__file__).parents[1] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))
    # xdist runs one test for each id, and since pytest 9.2 all operations of a test of schemathesis
    # have the id of their function.
    for item in items:
        if item.name != item.id.rest and "[" in item.name:
            item._id = item.id.with_params(item.name.partition("[")[2].removesuffix("]"))
    if repeated := [
        nodeid for nodeid, number in Counter(i.nodeid for i in items).items() if number > 1
    ]:
        raise pytest.UsageError(
            f"several tests have one id, so xdist would run only one: {repeated}"
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and skipped:
        reporter.write_line(f"{len(skipped)} skipped, and in CI a skip is a failure", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
