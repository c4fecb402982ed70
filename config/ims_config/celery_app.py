"""The Celery app of producers and workers alike, made from the settings."""

from typing import Any, Final

from celery import Celery
from kombu import Exchange, Queue

from ims_config.names import QUEUE_OF, QUEUES
from ims_config.settings import BrokerSettings

VISIBILITY_TIMEOUT_S: Final = 300
RESULT_EXPIRES_S: Final = 7 * 86400


def make_celery(settings: BrokerSettings, *, results: bool = True) -> Celery:
    """A Celery app that can send and read imports; the worker adds its tasks to it.

    Without `results` it only sends. With them Celery subscribes the process to the result of every
    task that it sends, for good: that grows without end, and fails when Redis is gone.
    """
    app = Celery("ims-import", set_as_current=False)
    app.conf.update(celery_config(settings))
    if not results:
        app.conf.result_backend = "disabled://"
    return app


def celery_config(settings: BrokerSettings) -> dict[str, Any]:
    """Celery's settings, each with its reason (measured in Celery 5.7.0)."""
    return _addresses(settings) | _delivery() | _results() | _routing(settings) | _reporting()


def _addresses(settings: BrokerSettings) -> dict[str, Any]:
    connection: dict[str, Any] = {}
    if settings.broker.startswith(("redis", "valkey", "unix")):
        connection = {
            # Longer than any task runs: a message outliving it would be delivered twice.
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            # kombu 5.7: look for messages of dead workers every 5 s, not every 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Without timeouts a publish on a dead connection waits for ever.
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            # The default of 10 stalls under load.
            "max_connections": 100,
        }
    return {
        "broker_url": settings.broker,
        "result_backend": settings.results,
        "broker_transport_options": connection,
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "result_backend_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "retry_policy": {"timeout": 5.0},
        },
        "redis_socket_timeout": 30.0,
        "redis_socket_connect_timeout": 5.0,
        "broker_connection_timeout": 5.0,
        "broker_connection_retry_on_startup": True,
        # A worker that loses its broker waits for it as long as it takes.
        "broker_connection_max_retries": None,
    }


def _delivery() -> dict[str, Any]:
    return {
        # A message is done when its task is done: an early ack loses it with the worker.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # Killing a task in the middle of a create makes exactly the case that must be looked up.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 20.0,
        "worker_enable_soft_shutdown_on_idle": True,
        # A producer's publish gives up quickly; the ledger has the import and the sweep sends it.
        "task_publish_retry_policy": {
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        # One thread waits on HTTP while others work: see docs/decisions.
        "worker_pool": "threads",
        "worker_concurrency": 32,
    }


def _results() -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # Only tasks whose id a producer holds say so themselves: results cost half the commands.
        "task_ignore_result": True,
        "result_extended": False,
        "result_expires": RESULT_EXPIRES_S,
        "task_track_started": True,
    }


def _routing(settings: BrokerSettings) -> dict[str, Any]:
    # RabbitMQ: replicated queues; Redis knows no arguments.
    arguments = {"x-queue-type": "quorum"} if settings.broker.startswith("amqp") else None
    queues = [
        Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)
        for name in QUEUES
    ]
    if settings.default_queue:
        # Declared by apps that know nothing of us: it has to be as theirs is.
        name = settings.default_queue
        queues.append(Queue(name, Exchange(name, type="direct"), routing_key=name))
    return {
        "task_queues": queues,
        "task_routes": {task: {"queue": queue} for task, queue in QUEUE_OF.items()},
        # What follows an import in another app's chain or chord goes to that app's queues.
        "task_create_missing_queues": True,
    }


def _reporting() -> dict[str, Any]:
    return {
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "enable_utc": True,
    }
