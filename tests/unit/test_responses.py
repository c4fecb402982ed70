"""The parsers read every response of IAM, IMS, gateways and proxies."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ims_config.records import ErrorClass
from ims_worker.adapters.otc.responses import (
    LONGEST_MESSAGE,
    Unreadable,
    clean,
    parse_failure,
    parse_image,
    parse_images,
    parse_job,
    parse_job_id,
    parse_quota,
    parse_retry_after,
)
from ims_worker.ports import CloudJob, JobId, JobStatus, Quota

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ASKED = JobId("asked")
TOKEN = "MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgEwggHgBgkqhkiG9w0"
JOB = {
    "job_id": "9a175ac892fa1342019300224f22218e",
    "job_type": "imsImportImageJob",
    "begin_time": "2024-11-06T06:21:08.769Z",
    "end_time": "",
    "status": "RUNNING",
    "error_code": None,
    "fail_reason": None,
    "entities": {},
}


def a_job(**changes: Any) -> CloudJob:
    return parse_job(json.dumps(JOB | changes).encode(), asked=ASKED)


@pytest.mark.parametrize(
    ("status", "body", "code", "message", "request_id"),
    [
        (
            400,
            '{"error":{"message":"The imagetype is invalid.","code":"IMG.0024"}}',
            "IMG.0024",
            "The imagetype is invalid.",
            "from-header",
        ),
        (
            429,
            '{"error_msg":"Slow down","error_code":"APIGW.0308","request_id":"8e83"}',
            "APIGW.0308",
            "Slow down",
            "8e83",
        ),
        (
            401,
            '{"error":{"message":"Unauthorized.","code":401,"title":"Unauthorized"}}',
            "HTTP.401",
            "Unauthorized.",
            "from-header",
        ),
        (
            400,
            '{"error_msg":"bad","error_code":"IAM.0011"}',
            "IAM.0011",
            "bad",
            "from-header",
        ),
        (
            504,
            '{"message":"Wait response timeout.","request_id":"8e83"}',
            "HTTP.504",
            "Wait response timeout.",
            "8e83",
        ),
        (400, '{"errorCode":"IMG.0057","errorMsg":"x"}', "IMG.0057", "x", "from-header"),
        (400, '{"code":"img.0057","message":"x"}', "IMG.0057", "x", "from-header"),
        (400, '{"fault":{"code":"IMG.0057","message":"x"}}', "IMG.0057", "x", "from-header"),
        (
            404,
            "<Error><Code>NoSuchKey</Code><Message>Not there.</Message>\n<RequestId>r1</RequestId>",
            "NoSuchKey",
            "Not there.",
            "r1",
        ),
        (
            502,
            "<html><style>p{}</style><body><h1>502</h1> Bad &amp; Gateway</body></html>",
            "HTTP.502",
            "502 Bad & Gateway",
            "from-header",
        ),
        (503, "", "HTTP.503", "HTTP 503, no text", "from-header"),
        (500, "[1, 2]", "HTTP.500", "[1, 2]", "from-header"),
        (500, '{"error": "plain text"}', "HTTP.500", "plain text", "from-header"),
    ],
)
def test_every_form_of_error_is_parsed(
    status: int, body: str, code: str, message: str, request_id: str
) -> None:
    failure = parse_failure(status, body.encode(), {"X-Request-Id": "from-header"})

    assert (failure.code, failure.message) == (code, message)
    assert failure.request_id == request_id
    assert failure.http_status == status


@pytest.mark.parametrize(
    "text",
    [
        f"token {TOKEN} is bad",
        f'{{"error_msg":"X-Auth-Token: {TOKEN}"}}',
        "X-Auth-Token: short-token-1",
        f"<p>{'gAAAAAB' + 'x' * 200}</p>",
    ],
)
def test_a_message_is_short_and_contains_no_token(text: str) -> None:
    failure = parse_failure(500, (text + " word" * 1000).encode(), {})

    assert TOKEN[:30] not in failure.model_dump_json()
    assert "short-token-1" not in failure.message
    assert "gAAAAAB" not in failure.message
    assert len(failure.message) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("INIT", JobStatus.INIT),
        ("RUNNING", JobStatus.RUNNING),
        ("SUCCESS", JobStatus.SUCCESS),
        ("success ", JobStatus.SUCCESS),
        ("FAIL", JobStatus.FAIL),
        ("PAUSED", JobStatus.UNKNOWN),
        ("", JobStatus.UNKNOWN),
    ],
)
def test_a_job_has_one_of_five_statuses(word: str, status: JobStatus) -> None:
    assert a_job(status=word).status is status


def test_an_image_id_may_be_known_before_success() -> None:
    entities = {"image_name": "x", "process_percent": 0.4, "image_id": "img-1", "subJobId": "s"}

    job = a_job(entities=entities)

    assert (job.status, job.image_ids, job.percent) == (JobStatus.RUNNING, ("img-1",), 40.0)


@pytest.mark.parametrize(
    ("given_percent", "expected"),
    [(0, 0), (1, 100), ("0.25", 25), (55, 55), (-1, None), (True, None), ("x", None), (None, None)],
)
def test_percent_is_0_to_100_or_unknown(given_percent: Any, expected: float | None) -> None:
    assert a_job(entities={"process_percent": given_percent}).percent == expected


def test_sub_jobs_name_the_system_image_first() -> None:
    subs = [
        {
            "job_type": "imsImportDataImageJob",
            "status": "SUCCESS",
            "entities": {"image_id": "data"},
        },
        {"job_type": "imsImportImageJob", "status": "SUCCESS", "entities": {"image_id": "sys"}},
    ]

    job = a_job(status="SUCCESS", entities={"sub_jobs_result": subs})

    assert job.image_ids == ("sys", "data")


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"error_code": "IMG.0057", "fail_reason": "empty"}, "IMG.0057", "empty"),
        ({"error_code": 57, "fail_reason": "empty"}, "IMG.0057", "empty"),
        ({"error_code": "0057", "fail_reason": "empty"}, "IMG.0057", "empty"),
        ({"error_code": "1075", "fail_reason": "file"}, "IMG.1075", "file"),
        (
            {"error_code": None, "fail_reason": "failed: img.0058, other region"},
            "IMG.0058",
            "failed: img.0058, other region",
        ),
        ({"error_code": 0, "fail_reason": "no code"}, "FAIL", "no code"),
        (
            {"entities": {"image_name": "t", "error_code": "IMG.0057", "error": "file error"}},
            "IMG.0057",
            "file error",
        ),
        (
            {"entities": {"addition_error_code": "IMG.0059", "addition_error_msg": "big"}},
            "IMG.0059",
            "big",
        ),
        (
            {
                "entities": {
                    "sub_jobs_result": [
                        {"status": "SUCCESS", "entities": {"image_id": "a"}},
                        {"status": "FAIL", "error_code": "IMG.0072", "fail_reason": "format"},
                    ]
                }
            },
            "IMG.0072",
            "format",
        ),
        (
            {"error_code": "IMG.0061", "fail_reason": ""},
            "IMG.0061",
            "IMS reports that the job failed and gives no reason",
        ),
        ({}, "FAIL", "IMS reports that the job failed and gives no reason"),
    ],
)
def test_the_reason_of_a_failed_job_is_parsed(
    changes: dict[str, Any], code: str, message: str
) -> None:
    job = a_job(status="FAIL", **changes)

    assert job.failure is not None
    assert (job.failure.code, job.failure.message) == (code, message)
    assert job.failure.hint


def test_job_ids_are_stripped() -> None:
    assert parse_job_id(b'{"job_id": " b912fb4a"}') == "b912fb4a"
    assert a_job(job_id=" b912 ").id == "b912"
    assert a_job(job_id=None).id == ASKED


def test_numbers_in_strings_are_parsed() -> None:
    image = parse_image(
        json.dumps(
            {
                "id": "img-1",
                "name": "n",
                "status": "active",
                "min_disk": "40",
                "__image_size": "1073741824",
                "size": 0,
                "__os_type": "Linux",
                "__os_version": "CentOS 7.0 64bit",
                "disk_format": "zvhd2",
                "created_at": "2018-09-06T14:03:27Z",
                "__data_origin": "file,ims-image:centos70.qcow2",
                "tags": ["key1=value1"],
                "max_ram": "",
            }
        ).encode()
    )

    assert (image.min_disk, image.size_bytes) == (40, 1073741824)
    assert (image.os_type, image.data_origin) == ("Linux", "file,ims-image:centos70.qcow2")
    assert image.tags == ("key1=value1",)


def test_the_image_quota_is_distinguished_from_others() -> None:
    resources = [
        {"type": "image_shared", "used": 9, "quota": 9},
        {"type": "image", "used": 3, "quota": 20, "min": 1, "max": 1000},
    ]

    assert parse_quota(json.dumps({"quotas": {"resources": resources}}).encode()) == Quota(
        used=3, limit=20
    )


def test_one_unreadable_image_makes_the_page_unreadable() -> None:
    with pytest.raises(Unreadable):
        parse_images(b'{"images": [{"id": "a"}, {"name": "no id"}]}')


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("7", timedelta(seconds=7)),
        ("Sun, 01 Mar 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", timedelta(0)),
        ("99999999", timedelta(hours=1)),
        ("soon", None),
        ("", None),
        (None, None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, pause: timedelta | None) -> None:
    assert parse_retry_after(header, now=NOON) == pause


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["error", "code", "status", "entities", "image_id", "images", "job_id", "id", "tags",
             "sub_jobs_result", "process_percent", "quotas", "resources", "error_code", "message",
             "request_id", "results", "fail_reason", "min_disk", "used", "quota", "type"]
        )
        | st.text(max_size=5),
        inner,
        max_size=6,
    ),
    max_leaves=25,
)  # fmt: skip
BODIES = st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode())
PARSERS: list[Callable[[bytes], object]] = [
    parse_job_id,
    lambda body: parse_job(body, asked=ASKED),
    parse_image,
    parse_images,
    parse_quota,
]


@given(body=BODIES, status=st.integers(300, 599))
@example(b"[" * 100_000, 500)
@example(b'{"error_msg": "\\ud800\\u0000"}', 500)
@example(b"9" * 5000, 500)
def test_any_error_body_gives_a_failure_with_a_code(body: bytes, status: int) -> None:
    failure = parse_failure(status, body, {})

    assert failure.code
    assert failure.message
    failure.model_dump_json().encode()


@given(body=BODIES, which=st.sampled_from(PARSERS))
@example(b"[" * 100_000, PARSERS[1])
@example(b'{"status": "FAIL", "fail_reason": "\\ud800", "entities": []}', PARSERS[1])
@example(b'{"id": "\\ud800", "min_disk": 1e999, "size": NaN}', PARSERS[2])
def test_any_body_is_parsed_or_unreadable(body: bytes, which: Callable[[bytes], object]) -> None:
    with suppress(Unreadable):
        which(body)


@given(st.text(max_size=2000))
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    line = clean(text)

    assert len(line) <= LONGEST_MESSAGE
    assert "\n" not in line
    assert "\x00" not in line


def test_a_failed_job_is_never_of_class_auth() -> None:
    job = a_job(status="FAIL", error_code="IMG.0009", fail_reason="exists")

    assert job.failure is not None
    assert job.failure.error_class is ErrorClass.PERMANENT
