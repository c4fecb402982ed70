"""The worker's Celery app: `celery -A ims_worker.app worker`."""

from typing import Any

from celery import signals

from ims_config.celery_app import make_celery
from ims_config.logs import bind, configure_logging
from ims_config.settings import WorkerSettings
from ims_worker import tasks
from ims_worker.adapters.redis import celery_transport
from ims_worker.scheduler import SchedulerStep

celery_transport.install()
settings = WorkerSettings()
app = make_celery(settings)
app.set_default()
tasks.register(app)
app.steps["worker"].add(SchedulerStep)
# Without this the worker also consumes the queues to which it sends other apps' callbacks.
app.amqp.queues.select([queue.name for queue in app.conf.task_queues])


@signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    configure_logging(settings)


@signals.task_prerun.connect(weak=False)  # type: ignore[untyped-decorator]
def _bind_task(task_id: str, task: Any, **_: Any) -> None:
    # Threads are reused: without this a task would log the id of the previous one.
    bind({"task": task.name, "task_id": task_id})
