"""Builds the Celery app that producers and workers share, with a reason beside each setting."""

from typing import Final

from celery import Celery
from kombu import Exchange, Queue

from ims_config.names import QUEUE_OF, QUEUES
from ims_config.settings import BrokerSettings

VISIBILITY_TIMEOUT_S: Final = 300
RESULT_EXPIRES_S: Final = 7 * 86400


def make_celery(settings: BrokerSettings, *, results: bool = True) -> Celery:
    """Build an app that sends imports and reads results; the worker adds its tasks to it.

    Without `results` it only sends: for results, Celery subscribes the process permanently to
    every task it sends. The subscriptions never end, and they fail when Redis is down.
    """
    app = Celery("ims-import", set_as_current=False)
    app.conf.update(celery_config(settings))
    if not results:
        app.conf.result_backend = "disabled://"
    return app


def celery_config(settings: BrokerSettings) -> dict[str, object]:
    """Celery's settings, each with its reason (measured with Celery 5.7.0)."""
    return _addresses(settings) | _delivery() | _results() | _routing(settings) | _reporting()


def _addresses(settings: BrokerSettings) -> dict[str, object]:
    connection: dict[str, object] = {}
    if settings.broker.startswith(("redis", "valkey", "unix")):
        connection = {
            # Longer than any task runs: after this time an unacknowledged message is redelivered.
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            # kombu 5.7: restore messages of dead workers every 5 s instead of every 100 s.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Without timeouts a publish on a dead connection blocks forever.
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
        # A worker that loses its broker reconnects without a limit.
        "broker_connection_max_retries": None,
    }


def _delivery() -> dict[str, object]:
    return {
        # Acknowledge after the task: an early acknowledgement loses the message with the worker.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # A task killed during a create request leaves its import UNCERTAIN.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 20.0,
        "worker_enable_soft_shutdown_on_idle": True,
        # Fail quickly: the ledger has the import, and the sweep sends what was not published.
        "task_publish_retry_policy": {
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        # Tasks mostly wait for HTTP: see docs/decisions.
        "worker_pool": "threads",
        "worker_concurrency": 32,
    }


def _results() -> dict[str, object]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # Results cause half of all Redis commands; only tasks whose id a producer holds store one.
        "task_ignore_result": True,
        "result_extended": False,
        "result_expires": RESULT_EXPIRES_S,
        "task_track_started": True,
    }


def _routing(settings: BrokerSettings) -> dict[str, object]:
    # RabbitMQ: replicated queues. Redis ignores queue arguments.
    arguments = {"x-queue-type": "quorum"} if settings.broker.startswith("amqp") else None
    queues = [
        Queue(name, Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)
        for name in QUEUES
    ]
    if settings.default_queue:
        # Other applications declare this queue too, so its arguments must match theirs.
        name = settings.default_queue
        queues.append(Queue(name, Exchange(name, type="direct"), routing_key=name))
    return {
        "task_queues": queues,
        "task_routes": {task: {"queue": queue} for task, queue in QUEUE_OF.items()},
        # Callbacks of other applications' chains and chords go to their own queues.
        "task_create_missing_queues": True,
    }


def _reporting() -> dict[str, object]:
    return {
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "enable_utc": True,
    }
