"""The level of the worker's log line for each change of an import."""

import logging

import pytest

from ims_config.records import ImportRecord, State, WaitsFor
from ims_worker.tasks.imports import level_of

LEVELS = [
    (State.FAILED, None, logging.ERROR),
    (State.UNCERTAIN, None, logging.WARNING),
    (State.WAITING, WaitsFor.CREDENTIALS, logging.WARNING),
    (State.WAITING, WaitsFor.PERSON, logging.WARNING),
    (State.WAITING, WaitsFor.SLOT, logging.INFO),
    (State.RUNNING, None, logging.INFO),
    (State.SUCCEEDED, None, logging.INFO),
]


@pytest.mark.parametrize(("state", "waits_for", "level"), LEVELS)
def test_what_needs_attention_is_logged_above_info(
    state: State, waits_for: WaitsFor | None, level: int
) -> None:
    record = ImportRecord(
        id="i", name="n", state=state, waits_for=waits_for, created_at="2026-01-02T03:04:05Z"
    )

    assert level_of(record) == level
