"""Settings are typed, belong to a kind of process, and are documented."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from celery.app.defaults import NAMESPACES, flatten
from pydantic import ValidationError

from ims_config.celery_app import celery_config
from ims_config.names import QUEUES
from ims_config.settings import (
    PREFIX,
    ApiSettings,
    ClientSettings,
    FlowerSettings,
    Settings,
    WorkerSettings,
    unknown_variables,
)

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
READERS = {
    "worker": WorkerSettings,
    "API": ApiSettings,
    "client": ClientSettings,
    "Flower": FlowerSettings,
}


def test_broker_and_results_default_to_redis() -> None:
    settings = Settings(redis_url="redis://:s3cret@cache/1")

    assert settings.broker == settings.results == "redis://:s3cret@cache/1"


def test_secrets_do_not_print() -> None:
    assert "s3cret" not in repr(Settings(redis_url="redis://:s3cret@cache/1", secret_key="s3cret"))


def test_a_variable_sets_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMS_IMPORT_POLL_MAX_S", "7")

    assert Settings().poll_max_s == timedelta(seconds=7)


def test_a_secret_file_sets_a_list(tmp_path: Path) -> None:
    (tmp_path / "ims_import_secret_key").write_text("new, old\n")

    assert WorkerSettings(_secrets_dir=tmp_path).secret_keys == ["new", "old"]


def test_values_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SMN_TOPICS": "urn:a, urn:b,",
        "RETENTION_DAYS": "0.5",
        "WEBHOOK_PAUSES_S": "5, 0.5",
        "WATCH_FILE": "/etc/rules.yaml",
        "SECRET_KEY": "",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = Settings()

    assert settings.smn_topics == ("urn:a", "urn:b")
    assert settings.retention_days == timedelta(hours=12)
    assert settings.webhook_pauses_s == (timedelta(seconds=5), timedelta(seconds=0.5))
    assert settings.watch_file == Path("/etc/rules.yaml")
    assert settings.secret_keys == []


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e300", "12 s"])
def test_a_duration_is_a_positive_number(text: str) -> None:
    with pytest.raises(ValidationError, match=r"must be (a number of seconds|greater than 0)"):
        Settings(settle_s=text)


def test_a_process_ignores_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMS_IMPORT_OBS_ADDRESSING", "nonsense")
    monkeypatch.setenv("IMS_IMPORT_OBS_SECRET_KEY", "SK")

    assert not hasattr(ApiSettings(), "obs_secret_key")
    assert ClientSettings()
    assert FlowerSettings()
    with pytest.raises(ValidationError, match="obs_addressing"):
        WorkerSettings()


def test_an_unknown_variable_is_found_with_the_closest_name() -> None:
    environ = {
        "IMS_IMPORT_LEGDER_URL": "x",
        "IMS_IMPORT_Q": "x",
        "ims_import_log_level": "INFO",
        "IMS_IMPORT_SECRETS_DIR": "/run",
        "IMS_IMPORT_TEST_REDIS_URL": "x",
        "OTHER": "x",
    }

    assert unknown_variables(environ) == {
        "IMS_IMPORT_LEGDER_URL": "IMS_IMPORT_LEDGER_URL",
        "IMS_IMPORT_Q": None,
    }


def test_a_worker_logs_an_unknown_variable_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMS_IMPORT_LEGDER_URL", "s3cret")
    twice = (
        "from ims_config.logs import configure_logging\n"
        "from ims_config.settings import WorkerSettings\n"
        "for _ in range(2): configure_logging(WorkerSettings(log_format='json'))\n"
    )

    process = subprocess.run(
        [sys.executable, "-c", twice], capture_output=True, text=True, check=True
    )

    [line] = process.stderr.splitlines()
    facts = json.loads(line)
    assert (facts["event"], facts["level"]) == ("unknown setting ignored", "warning")
    assert facts["variable"] == "IMS_IMPORT_LEGDER_URL"
    assert facts["closest"] == "IMS_IMPORT_LEDGER_URL"
    assert "s3cret" not in line


def test_every_celery_setting_exists() -> None:
    # `visibility_timeout` is read by kombu's Redis backend and is in no table of Celery's.
    known = set(dict(flatten(NAMESPACES))) | {"visibility_timeout"}

    assert set(celery_config(Settings())) <= known


def test_the_countdowns_fit_into_the_visibility_timeout() -> None:
    config = celery_config(Settings())

    assert config["broker_transport_options"]["visibility_timeout"] > 90 + 60


def test_rabbitmq_gets_quorum_queues_except_the_one_that_other_apps_declare() -> None:
    queues = {
        queue.name: queue.queue_arguments
        for queue in celery_config(Settings(broker_url="amqp://broker"))["task_queues"]
    }

    assert queues.pop("celery") is None
    assert queues == {key: {"x-queue-type": "quorum"} for key in QUEUES}


def test_the_queue_of_apps_that_name_none_can_be_left_to_others() -> None:
    queues = celery_config(Settings(default_queue=""))["task_queues"]

    assert [queue.name for queue in queues] == list(QUEUES)


def test_the_table_of_the_docs_lists_every_setting() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE
    )

    assert sorted(rows) == sorted(
        (f"{PREFIX}{name.upper()}", _readers(name), field.description)
        for name, field in Settings.model_fields.items()
    )


def _readers(name: str) -> str:
    readers = [reader for reader, group in READERS.items() if name in group.model_fields]
    return "all" if len(readers) == len(READERS) else ", ".join(readers)
