"""Settings: one way in, one table in the docs."""

from pathlib import Path

import pytest
from celery.app.defaults import NAMESPACES, flatten

from ims_config.celery_app import celery_config
from ims_config.names import QUEUES
from ims_config.settings import PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_broker_and_results_are_redis_unless_told_otherwise() -> None:
    settings = Settings(redis_url="redis://:s3cret@cache/1")

    assert settings.broker == settings.results == "redis://:s3cret@cache/1"


def test_secrets_do_not_print() -> None:
    assert "s3cret" not in repr(Settings(redis_url="redis://:s3cret@cache/1"))


def test_a_variable_sets_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMS_IMPORT_POLL_MAX_S", "7")

    assert Settings().poll_max_s == 7


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


def test_every_setting_is_in_the_table_of_the_docs() -> None:
    table = DOCS.read_text()

    missing = [
        name
        for name, field in Settings.model_fields.items()
        if f"| `{PREFIX}{name.upper()}` |" not in table or (field.description or "?") not in table
    ]

    assert missing == []
