"""The scheduler: a bootstep in every worker; the elected one sends due messages.

Every worker also renews its leases and touches the file of the health check.
"""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from celery import Celery, bootsteps
from celery.worker import state as celery_state
from redis import RedisError

from ims_config.names import DELIVER_WEBHOOK, POLL_QUEUE, SUBMIT_QUEUE, SWEEP, WATCH
from ims_config.records import State
from ims_config.signatures import ref_to, submit_signature
from ims_ledger import LedgerNotCurrent, LedgerOutdated
from ims_worker import bootstrap
from ims_worker.adapters.redis.current_ledger import publish_ledger
from ims_worker.adapters.redis.leases import Lease
from ims_worker.adapters.webhook_sender import DELIVERY_LEASE
from ims_worker.bootstrap import Services
from ims_worker.canvas import poll_again
from ims_worker.duties import OUTAGES, Duties, Duty

logger = logging.getLogger(__name__)

TICK: Final = timedelta(milliseconds=100)
SECOND: Final = timedelta(seconds=1)
# Another worker takes over this long after the elected one died.
LEADER_LEASE: Final = timedelta(seconds=3)
BATCH: Final = 200
# As the command line: the ledger is wrong.
WRONG_LEDGER_EXIT_CODE: Final = 5
# Claims stop while this many messages wait: their leases would expire before a worker is free.
MAX_WAITING: Final = 400


class Scheduler:
    """One thread of one worker process."""

    def __init__(self, app: Celery, services: Services) -> None:
        self._app = app
        self._services = services
        self._worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stopping = threading.Event()
        self._elected = False
        self._duties = Duties(
            [*self._list_duties()], is_leader=lambda: self._elected, now=monotonic
        )

    def run(self) -> None:
        """Run the duties until stopped."""
        while not self._stopping.wait(TICK.total_seconds()):
            self._duties.run_due()
        with suppress(RedisError):
            self._services.leadership.step_down(self._worker_id)

    def stop(self) -> None:
        self._stopping.set()

    def _list_duties(self) -> Iterator[Duty]:
        settings = self._services.settings
        if alive := settings.alive_file:
            yield Duty(name="touch", every=SECOND, action=alive.touch, leader_only=False)
        yield Duty(name="publish ledger", every=SECOND, action=self._publish, leader_only=False)
        yield Duty(
            name="renew", every=SECOND, action=self._services.leases.renew, leader_only=False
        )
        yield Duty(name="elect", every=timedelta(0), action=self._elect, leader_only=False)
        yield self._request(SWEEP, settings.sweep_every_s)
        if settings.watch_file is not None:
            yield self._request(WATCH, settings.watch_every_s)
        yield Duty(name="send due messages", every=timedelta(0), action=self._send_due)
        yield Duty(name="send webhooks", every=SECOND, action=self._send_webhooks)

    def _request(self, task: str, every: timedelta) -> Duty:
        """A duty that sends a task; the message expires when the next one is sent."""
        return Duty(
            name=task,
            every=every,
            action=lambda: self._app.send_task(task, expires=every.total_seconds()),
        )

    def _publish(self) -> None:
        # Again and again: Redis may have lost the id, or an operator adopted another ledger.
        try:
            publish_ledger(self._services.redis, self._services.ledger.id)
        except LedgerNotCurrent as exc:
            log_wrong_ledger(exc)
            # Celery ends the worker gracefully, with this exit code.
            celery_state.should_stop = WRONG_LEDGER_EXIT_CODE
            self.stop()

    def _elect(self) -> None:
        # False first: without Redis no worker is the leader.
        self._elected = False
        self._elected = self._services.leadership.elect(self._worker_id, LEADER_LEASE)

    def _send_webhooks(self) -> None:
        for claim in self._services.ledger.outbox.claim(lease=DELIVERY_LEASE):
            self._app.send_task(DELIVER_WEBHOOK, [*claim])

    def _send_due(self) -> None:
        with self._app.producer_or_acquire() as producer:
            free = MAX_WAITING - self._waiting(producer)
            while free > 0 and (leases := self._services.due.claim(min(free, BATCH))):
                self._send(leases, producer)
                free -= len(leases)

    def _waiting(self, producer: Any) -> int:
        # Not passive: on Redis an empty queue does not exist.
        return sum(
            producer.channel.queue_declare(
                queue=name, durable=True, auto_delete=False, arguments=queue.queue_arguments
            ).message_count
            for name, queue in self._app.amqp.queues.items()
            if name in (POLL_QUEUE, SUBMIT_QUEUE)
        )

    def _send(self, leases: list[Lease], producer: Any) -> None:
        ids = [lease.import_id for lease in leases]
        upcoming = self._services.ledger.imports.with_canvases(ids)
        for lease, poll_state in zip(leases, self._services.due.poll_states(ids), strict=True):
            if lease.import_id not in upcoming:
                # An import of another ledger, or one that was pruned.
                self._services.due.remove(lease.import_id)
                continue
            record, canvas = upcoming[lease.import_id]
            ref = ref_to(record, lease.generation)
            if record.state in (State.QUEUED, State.WAITING):
                message = submit_signature(self._app, ref)
            else:
                message = poll_again(self._app, canvas, ref, retries=poll_state.polls)
            message.apply_async(producer=producer)


def log_wrong_ledger(exc: LedgerNotCurrent) -> None:
    logger.critical(
        "the worker stops: %s; set IMS_IMPORT_LEDGER_URL to that ledger, or make this one the "
        "current one with: ims-import ledger adopt",
        exc,
    )


class SchedulerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Starts and stops the scheduler with the worker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_options: Any) -> None:
        self._app: Celery = worker.app
        self._scheduler: Scheduler | None = None
        self._thread: threading.Thread | None = None

    def start(self, _worker: Any) -> None:
        services = bootstrap.services()
        self._ensure_current_ledger(services)
        self._scheduler = Scheduler(self._app, services)
        self._thread = threading.Thread(
            target=self._scheduler.run, name="ims-import-scheduler", daemon=True
        )
        self._thread.start()

    def _ensure_current_ledger(self, services: Services) -> None:
        """Raise SystemExit before the worker consumes; an outage is no reason, it is checked later.

        Celery stops the worker with the code of the exception.
        """
        try:
            publish_ledger(services.redis, services.ledger.id)
        except LedgerNotCurrent as exc:
            log_wrong_ledger(exc)
            raise SystemExit(WRONG_LEDGER_EXIT_CODE) from exc
        except (*OUTAGES, LedgerOutdated) as exc:
            logger.warning("cannot compare ledgers yet", extra={"reason": str(exc)})

    def stop(self, _worker: Any) -> None:
        if self._scheduler and self._thread:
            self._scheduler.stop()
            self._thread.join(timeout=5)

    terminate = stop
