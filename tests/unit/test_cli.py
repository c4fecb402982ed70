"""The command line, as far as it needs no queue: help, options, messages, exit codes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from builders import a_body

from ims_config.import_request import ImportRequest, Kind
from ims_config.records import ErrorClass, Failure, ImportResult, Progress, State, WaitsFor
from ims_config.worker_reports import GcReport, OrphanedImage
from ims_ledger import Ledger
from ims_producer.cli import render
from ims_producer.cli.app import app, run
from ims_producer.cli.clouds import gc_lines
from ims_producer.cli.durations import format_duration
from ims_producer.cli.exit_codes import exit_code_of

Result = tuple[int, str, str]
Ims = Callable[..., Result]
COMMANDS = [command.name or "" for command in app.registered_commands]
# These pass their arguments, also --help, to other programs.
PASSED_ON = ("flower", "sandbox", "demo")


@pytest.fixture
def ims(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ims:
    """Run the program in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("IMS_IMPORT_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.db'}")

    def call(*argv: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ims-import", *argv])
        try:
            run()
        except SystemExit as exc:
            code = int(exc.code or 0)
        else:
            code = 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def a_result(state: State = State.RUNNING, **differences: object) -> ImportResult:
    fields: dict[str, object] = {
        "id": "6f2c8f0e",
        "state": state,
        "kind": "system",
        "name": "ubuntu",
        "image_url": "images:ubuntu.qcow2",
        "created_at": "2026-01-02T03:04:05Z",
        "request": a_body(),
    }
    return ImportResult.model_validate(fields | differences)


def a_failure(error_class: ErrorClass = ErrorClass.PERMANENT) -> Failure:
    return Failure(code="IMG.0057", message="bad file", error_class=error_class, hint="Look at it.")


# --- help -----------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_codes(ims: Ims) -> None:
    code, out, _ = ims("--help")

    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert "Exit codes: 0 done" in out


def test_help_loads_no_slow_library() -> None:
    code = (
        "import sys; from ims_producer.cli.app import app; "
        "print({'celery', 'pydantic', 'requests', 'rich', 'sqlalchemy'} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_version_is_printed(ims: Ims) -> None:
    assert ims("--version") == (0, f"ims-import {version('ims-import')}\n", "")


@pytest.mark.parametrize("group", [(), ("keys",), ("webhooks",)])
def test_summaries_of_commands_fit_into_80_columns(
    ims: Ims, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    _, out, _ = ims(*group, "--help")

    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in PASSED_ON])
def test_help_of_every_command_has_an_example(ims: Ims, command: str) -> None:
    code, out, _ = ims(command, "--help")

    assert code == 0
    assert f"ims-import {command}" in out.partition("Example")[2]


def all_commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from all_commands(command, *path, name)


@pytest.mark.parametrize(
    "argv",
    [path for path in all_commands(typer.main.get_command(app)) if not {*path} & {*PASSED_ON}],
    ids=" ".join,
)
def test_help_fits_into_80_columns(
    ims: Ims, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    _, out, _ = ims(*argv, "--help")

    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_submit_has_an_option_for_every_parameter_of_a_request(ims: Ims) -> None:
    _, out, _ = ims("submit", "--help")

    named = {"image_url": "BUCKET:KEY", "is_config": "--config", "is_quick_import": "--quick",
             "tags": "--tag", "data_images": "--data-image",
             "webhook_url": "--webhook"}  # fmt: skip
    options = {
        named.get(field, f"--{field.replace('_', '-')}")
        for field in ImportRequest.model_fields
        if field != "is_config_init"  # accepted for old scripts, but hidden
    }
    assert [option for option in options if option not in out] == []


# --- requests --------------------------------------------------------------------------


def test_a_dry_run_prints_the_request_and_records_nothing(ims: Ims, tmp_path: Path) -> None:
    code, out, _ = ims(
        "submit", "images:a.qcow2", "--name", "a", "--min-disk", "40", "--tag", "team=x",
        "--tag", "env=y", "--config", "--hw-firmware-type", "uefi", "--dry-run",
    )  # fmt: skip

    assert code == 0
    assert json.loads(out) == {
        "kind": "system", "name": "a", "image_url": "images:a.qcow2", "min_disk": 40,
        "tags": {"team": "x", "env": "y"}, "is_config": True, "hw_firmware_type": "uefi",
    }  # fmt: skip
    assert not (tmp_path / "ledger.db").exists()


def test_data_image_takes_all_fields_in_one_option(ims: Ims) -> None:
    _, out, _ = ims(
        "submit", "images:a.qcow2", "--name", "a", "--min-disk", "40", "--dry-run",
        "--data-image", "images:with,comma.qcow2,min_disk=10,name=data",
    )  # fmt: skip

    assert json.loads(out)["data_images"] == [
        {"image_url": "images:with,comma.qcow2", "min_disk": 10, "name": "data"}
    ]


def test_options_override_the_file(ims: Ims, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(a_body(name="from-the-file", kind="data")))

    _, out, _ = ims("submit", "--file", str(file), "--name", "from-the-option", "--dry-run")

    assert (json.loads(out)["name"], json.loads(out)["kind"]) == ("from-the-option", Kind.DATA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON or YAML object; given: list"),
        ("{", "must be a JSON or YAML object; line 1"),
    ],
)
def test_a_file_without_an_object_is_refused(
    ims: Ims, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "request.json"
    file.write_text(text)

    code, _, err = ims("submit", "--file", str(file))

    assert code == 2
    assert f"--file {file}: {message}" in err


def test_a_missing_file_is_refused(ims: Ims) -> None:
    assert ims("submit", "--file", "/nowhere.json") == (
        2,
        "",
        "ims-import: --file /nowhere.json: No such file or directory\n",
    )


def test_invalid_input_names_field_value_and_rule_and_records_nothing(
    ims: Ims, tmp_path: Path
) -> None:
    code, out, err = ims("submit", "images:a.qcow2", "--name", "a", "--min-disk", "2000")

    assert (code, out) == (2, "")
    assert err == ("ims-import: min_disk: must be 1 to 1024 GB for a system image; got 2000\n")
    assert not (tmp_path / "ledger.db").exists()


def test_a_parameter_that_the_api_dropped_is_accepted_with_a_note(ims: Ims) -> None:
    code, _, err = ims(
        "submit", "images:a.qcow2", "--name", "a", "--min-disk", "40", "--config-init", "--dry-run"
    )

    assert code == 0
    assert "is_config_init: not sent" in err


def test_an_invalid_setting_is_named_without_its_value(
    ims: Ims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMS_IMPORT_LOG_LEVEL", "s3cret")

    code, _, err = ims("list")

    assert code == 2
    assert "setting IMS_IMPORT_LOG_LEVEL: must be" in err
    assert "s3cret" not in err


def test_the_client_does_not_validate_settings_of_a_worker(
    ims: Ims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMS_IMPORT_POLL_MAX_S", "s3cret")

    assert ims("list")[0] == 0


def test_an_unknown_variable_is_reported_once_without_its_value(
    ims: Ims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMS_IMPORT_POLL_MAKS_S", "s3cret")

    code, out, err = ims("list", "--json")

    assert (code, out) == (0, "[]\n")
    assert err == (
        "ims-import: warning: IMS_IMPORT_POLL_MAKS_S is not a setting; "
        "did you mean IMS_IMPORT_POLL_MAX_S?\n"
    )
    assert "s3cret" not in ims("list", "--help")[2]


def test_resolve_requires_exactly_one_decision(ims: Ims) -> None:
    code, _, err = ims("resolve", "some-id", "--resubmit", "--fail")

    assert code == 2
    assert "use exactly one of --resubmit, --image IMAGE_ID and --fail" in err


def test_an_invalid_duration_is_refused_with_the_rule(ims: Ims) -> None:
    code, _, err = ims("prune", "--older-than", "old")

    assert code == 2
    assert "--older-than old: must be a number and d, h, min or s" in err


# --- show and list --------------------------------------------------------------------------


def test_an_unknown_id_is_no_such_import(ims: Ims) -> None:
    assert ims("show", "nope") == (2, "", "ims-import: no such import: nope\n")


def test_an_unknown_state_lists_the_valid_ones(ims: Ims) -> None:
    code, _, err = ims("list", "--state", "PENDING")

    assert code == 2
    assert "--state PENDING: must be one of QUEUED, WAITING" in err


def test_an_empty_list_is_a_note_on_stderr_or_an_empty_array(ims: Ims) -> None:
    assert ims("list") == (0, "", "No imports found.\n")
    assert ims("list", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////proc/nowhere/ledger.db", "its folder /proc/nowhere cannot be made"),
        ("ledger.db", "its URL must be sqlite:////PATH or postgresql+psycopg://"),
        ("mysterious://:s3cret@host/db", "its URL must be sqlite:////PATH or"),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_unreachable(
    ims: Ims, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setenv("IMS_IMPORT_LEDGER_URL", url)

    code, _, err = ims("list")

    assert code == 5
    assert f"ledger: {message}" in err
    assert "ims-import doctor" in err
    assert "s3cret" not in err


def test_a_finished_import_is_shown_and_listed(ims: Ims, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    record, _ = ledger.imports.record(ImportRequest.model_validate(a_body(name="shown")))
    ledger.transitions.move(
        record.id, from_state=State.QUEUED, to=State.FAILED, error=a_failure(), reason="bad file"
    )
    ledger.close()

    _, shown, _ = ims("show", record.id)
    _, as_json, _ = ims("show", record.id, "--json")
    _, events, _ = ims("show", record.id, "--events")
    _, listed, _ = ims("list")

    assert "IMG.0057: bad file" in shown
    assert "what to do  Look at it." in shown
    assert json.loads(as_json)["error"]["class"] == "permanent"
    assert "QUEUED → FAILED" in events
    assert record.id in listed
    assert not any(line.endswith(" ") for line in listed.splitlines())


def test_a_list_on_a_narrow_terminal_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    record = a_result(
        State.FAILED, id="5c4c074d-f58b-4175-a840-0aa0997ab238", name="n" * 128, error=a_failure()
    )

    render.print_list([record], render.import_row, as_json=False, empty="")

    output = capsys.readouterr().out
    assert render.stdout().is_terminal
    assert all(text in output for text in (record.id, record.name, "FAILED", "IMG.0057: bad file"))


def test_watching_no_import_shows_no_table(ims: Ims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    code, out, err = ims("watch", "--json")

    assert (code, out) == (0, "[]\n")
    assert "No import is open." in err
    assert "state" not in err


# --- exit codes and progress ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (a_result(State.SUCCEEDED), 0),
        (a_result(State.FAILED), 1),
        (a_result(State.CANCELED), 1),
        (a_result(State.RUNNING), 3),
        (a_result(State.WAITING), 3),
        (a_result(State.WAITING, error=a_failure(ErrorClass.AUTH)), 4),
        (a_result(State.UNCERTAIN), 3),
        (a_result(State.UNCERTAIN, waits_for=WaitsFor.PERSON), 6),
    ],
    ids=lambda value: str(getattr(value, "state", value)),
)
def test_exit_code_after_waiting_reflects_the_state(result: ImportResult, code: int) -> None:
    assert exit_code_of(result) == code


def test_the_worst_import_decides_the_exit_code() -> None:
    failed, uncertain = a_result(State.FAILED), a_result(State.UNCERTAIN, waits_for="person")
    running, succeeded = a_result(State.RUNNING), a_result(State.SUCCEEDED)

    assert exit_code_of() == 0
    assert exit_code_of(succeeded, running) == 3
    assert exit_code_of(running, uncertain) == 6
    assert exit_code_of(uncertain, failed, running) == 1


def test_progress_is_not_100_percent_before_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with render.progress(render.stdout()) as show:
        for percent in (10, 60, 99):
            show([a_result(progress=Progress(percent=percent))])
        show([a_result(State.SUCCEEDED, image_id="i")])

    assert capsys.readouterr().out.splitlines() == [
        "ubuntu: RUNNING 0 %", "ubuntu: RUNNING 50 %", "ubuntu: RUNNING 75 %",
    ]  # fmt: skip


def test_progress_lines_show_a_percent_only_if_the_cloud_reports_one() -> None:
    assert render.progress_text(a_result()) == "RUNNING"
    assert render.progress_text(a_result(progress=Progress(percent=62))) == "RUNNING 50 %"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
     (273600, "3 d 4 h")],
)  # fmt: skip
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# --- polls that fail ------------------------------------------------------------------------


def failing_polls(**differences: object) -> ImportResult:
    error = {
        "code": "HTTP.403",
        "message": "Forbidden",
        "class": "hold",
        "hint": "Grant the permission.",
        "since": "2026-01-02T03:05:06Z",
        "count": 3,
    }
    return a_result(job_id="j", poll_error=error, **differences)


def test_an_import_whose_polls_fail_says_so_instead_of_a_percentage() -> None:
    record = failing_polls()
    words = "polls fail since 2026-01-02 03:05:06 UTC: HTTP.403: Forbidden"

    assert render.progress_text(record) == f"RUNNING, {words}"
    assert render.summary(record) == words
    assert [*render.outcome(record)][-1] == "What to do: Grant the permission."
    assert render.import_row(record)["details"] == words


def test_show_prints_the_poll_error_and_the_times_of_polls(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {"last_poll_at": "2026-01-02T03:06:07Z", "next_poll_at": "2026-01-02T03:07:08Z"}

    render.print_details(failing_polls(**times))

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "failed polls 3" in lines
    assert "what to do Grant the permission." in lines
    assert "last poll 2026-01-02 03:06:07 UTC" in lines
    assert "next poll 2026-01-02 03:07:08 UTC" in lines


# --- images and times -------------------------------------------------------------------------


def an_orphan(image_id: str, *, known: bool) -> OrphanedImage:
    return OrphanedImage(
        image_id=image_id, name="n", status="active", import_id="i", why="canceled", known=known
    )


@pytest.mark.parametrize(
    ("yes", "unknown", "outcomes"),
    [
        (False, False, {"a": "--yes deletes it", "b": "kept: its import is unknown"}),
        (False, True, {"a": "--yes deletes it", "b": "--yes deletes it"}),
        (True, False, {"a": "deleted", "b": "kept: its import is unknown"}),
        (True, True, {"a": "deleted", "b": "protected"}),
    ],
)
def test_gc_says_what_happens_to_each_image(
    *, yes: bool, unknown: bool, outcomes: dict[str, str]
) -> None:
    report = GcReport(
        project="p",
        leftovers=(an_orphan("a", known=True), an_orphan("b", known=False)),
        deleted=("a",) if yes else (),
        not_deleted={"b": "protected"} if yes and unknown else {},
    )

    lines = list(gc_lines(report, yes=yes, unknown=unknown))

    for line, outcome in zip(lines, outcomes.values(), strict=False):
        assert line.split("; ")[1].startswith(outcome)


def test_the_age_of_a_finished_import_is_no_duration() -> None:
    ended = a_result(State.SUCCEEDED, image_id="i", finished_at="2026-01-02T03:14:05Z")

    assert render.outcome_text(ended).endswith("(took 10 min)")
    assert render.import_row(ended)["age"] != "10 min"
    assert "took" not in render.outcome_text(a_result(State.FAILED, reason="r"))


@pytest.mark.parametrize("cancel", ["delete", "leave"])
def test_a_requested_cancel_is_visible_until_the_job_ends(cancel: str) -> None:
    running = a_result(State.RUNNING, cancel=cancel)
    failing = a_result(State.RUNNING, cancel=cancel, reason="r", overdue=True)
    canceled = a_result(State.CANCELED, cancel=cancel, reason="canceled")

    assert render.progress_text(running) == "RUNNING, cancel requested"
    assert render.summary(failing) == "cancel requested; overdue; r"
    assert "requested" not in render.outcome_text(canceled)
    assert json.loads(running.model_dump_json())["cancel"] == cancel
