"""The scheduler: a part of every worker, of which one is elected to send what is due.

It also keeps the leases of what this worker has in hand, asks for the sweep, and touches the
file by which a health check sees that the worker lives.
"""

import logging
import os
import socket
import threading
import uuid
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from celery import Celery, bootsteps
from kombu.exceptions import OperationalError
from redis import RedisError

from ims_config.names import POLL_QUEUE, SUBMIT_QUEUE, SWEEP, WATCH
from ims_config.records import State
from ims_config.signatures import ref_to, submit_signature
from ims_ledger.errors import LedgerUnavailable
from ims_worker import bootstrap
from ims_worker.adapters.redis.leases import Lease
from ims_worker.bootstrap import Services
from ims_worker.canvas import poll_again
from ims_worker.tasks.webhooks import send_due

logger = logging.getLogger(__name__)

TICK: Final = timedelta(milliseconds=100)
# Another worker takes over this long after the elected one died.
LEADER_LEASE: Final = timedelta(seconds=3)
BATCH: Final = 200
# Claims stop while this many messages wait: leases of messages nobody can begin would run out.
MOST_WAITING: Final = 400
HOUSEKEEPING_EVERY: Final = timedelta(seconds=1)
DELIVERIES_EVERY: Final = timedelta(seconds=1)
TROUBLE_PAUSE: Final = timedelta(seconds=1)

NOT_NOW = (RedisError, OperationalError, LedgerUnavailable, OSError)


class Scheduler:
    """One thread of one worker process."""

    def __init__(self, app: Celery, services: Services) -> None:
        self._app = app
        self._services = services
        self._who = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stopping = threading.Event()
        self._kept = 0.0
        self._swept = 0.0
        self._told = 0.0
        self._watched = 0.0

    def run(self) -> None:
        """Until stopped; trouble with Redis, broker or ledger is waited out."""
        trouble = False
        while not self._stopping.wait((TROUBLE_PAUSE if trouble else TICK).total_seconds()):
            try:
                self.tick()
            except NOT_NOW as exc:
                if not trouble:
                    logger.warning("scheduler waits", extra={"why": str(exc)})
                trouble = True
            except Exception:
                logger.exception("scheduler tick failed")
                trouble = True
            else:
                if trouble:
                    logger.info("scheduler goes on")
                trouble = False
        with suppress(RedisError):
            self._services.leadership.step_down(self._who)

    def stop(self) -> None:
        self._stopping.set()

    def tick(self) -> None:
        """Keep what is in hand; if elected, send what is due."""
        now = monotonic()
        if now - self._kept >= HOUSEKEEPING_EVERY.total_seconds():
            self._kept = now
            self._touch()
            self._services.leases.renew()
        if not self._services.leadership.elect(self._who, LEADER_LEASE):
            return
        if now - self._swept >= self._services.settings.sweep_every_s.total_seconds():
            self._swept = now
            # One that waits longer than this is as good as the next.
            self._app.send_task(
                SWEEP, expires=self._services.settings.sweep_every_s.total_seconds()
            )
        self._watch(now)
        self._send_due()
        if now - self._told >= DELIVERIES_EVERY.total_seconds():
            self._told = now
            send_due(self._app, self._services)

    def _watch(self, now: float) -> None:
        every = self._services.settings.watch_every_s.total_seconds()
        if self._services.settings.watch_file is not None and now - self._watched >= every:
            self._watched = now
            self._app.send_task(WATCH, expires=every)

    def _touch(self) -> None:
        if self._services.settings.alive_file is not None:
            self._services.settings.alive_file.touch()

    def _send_due(self) -> None:
        with self._app.producer_or_acquire() as producer:
            free = MOST_WAITING - self._waiting(producer)
            while free > 0 and (holds := self._services.due.claim(min(free, BATCH))):
                self._send(holds, producer)
                free -= len(holds)

    def _waiting(self, producer: Any) -> int:
        # Declared as they are, not passively: Redis forgets a queue that is empty.
        return sum(
            producer.channel.queue_declare(
                queue=name, durable=True, auto_delete=False, arguments=queue.queue_arguments
            ).message_count
            for name, queue in self._app.amqp.queues.items()
            if name in (POLL_QUEUE, SUBMIT_QUEUE)
        )

    def _send(self, holds: list[Lease], producer: Any) -> None:
        ids = [hold.import_id for hold in holds]
        upcoming = self._services.ledger.imports.with_canvases(ids)
        for hold, live in zip(holds, self._services.due.poll_states(ids), strict=True):
            if hold.import_id not in upcoming:
                # The schedule of another ledger, or an import that was pruned.
                self._services.due.remove(hold.import_id)
                continue
            record, canvas = upcoming[hold.import_id]
            ref = ref_to(record, hold.generation)
            if record.state in (State.QUEUED, State.WAITING):
                message = submit_signature(self._app, ref)
            else:
                message = poll_again(self._app, canvas, ref, retries=live.polls)
            message.apply_async(producer=producer)


class SchedulerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Runs the scheduler as long as the worker runs."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_options: Any) -> None:
        self._app: Celery = worker.app
        self._scheduler: Scheduler | None = None
        self._thread: threading.Thread | None = None

    def start(self, _worker: Any) -> None:
        self._scheduler = Scheduler(self._app, bootstrap.services())
        self._thread = threading.Thread(
            target=self._scheduler.run, name="ims-import-scheduler", daemon=True
        )
        self._thread.start()

    def stop(self, _worker: Any) -> None:
        if self._scheduler and self._thread:
            self._scheduler.stop()
            self._thread.join(timeout=5)

    terminate = stop
