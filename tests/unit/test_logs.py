"""Logs have one format for all libraries and contain no secrets."""

import json
import logging
from collections.abc import Iterator

import pytest

from ims_config.logs import bind, configure_logging
from ims_config.settings import Settings


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    bind({})


@pytest.mark.usefixtures("restored")
def test_a_json_line_contains_the_facts_and_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    bind({"task": "ims.poll_import", "task_id": "t-1"})

    logging.getLogger("a.package").info("import %s", "RUNNING", extra={"job_id": "j-1"})

    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "import RUNNING"
    assert (line["job_id"], line["task"], line["task_id"]) == ("j-1", "ims.poll_import", "t-1")
    assert line["timestamp"].endswith("Z")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    "name", ["password", "X-Auth-Token", "os_password", "access_key", "authorization", "api_key"]
)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_facts_named_like_secrets_are_redacted(
    capsys: pytest.CaptureFixture[str], name: str, log_format: str
) -> None:
    configure_logging(Settings.model_validate({"log_format": log_format}))

    logging.getLogger("a.package").error("refused", extra={name: "s3cret"})

    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.usefixtures("restored")
def test_debug_lines_of_libraries_with_headers_are_not_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(Settings(log_level="DEBUG"))

    logging.getLogger("keystoneauth.session").debug("REQ: curl -H 'X-Auth-Token: s3cret'")
    logging.getLogger("urllib3.connectionpool").debug("s3cret")

    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("restored")
def test_celery_does_not_log_arguments_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings())

    logging.getLogger("celery.app.trace").info("succeeded", extra={"data": {"args": "long"}})
    logging.getLogger("celery.app.trace").error("raised", extra={"data": {"args": "long"}})

    output = capsys.readouterr().err
    assert "raised" in output
    assert "succeeded" not in output
    assert "long" not in output
