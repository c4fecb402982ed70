"""Every error code that matters for imports has a class and a hint, and is known in one place."""

import re
from pathlib import Path

import pytest

import ims_ledger
import ims_producer
import ims_worker
from ims_config.records import ErrorClass
from ims_worker.adapters.otc import error_catalog
from ims_worker.adapters.otc.error_catalog import CATALOGUE, Meaning, advice_for, meaning_of

# As classified in the research on the API: permanent, retry, auth, hold, look-first.
CLASSES = {
    "permanent": """
        0001 0007 0002 0003 0013 0062 0004 0054 0017 0024 0117 0027 0066 0086 0144 0028 0047 0092
        0094 0030 0067 0104 0145 0055 0056 0122 0138 0057 0058 0059 0068 0109 0070 0072 0115 0116
        0118 0121 0123 0141 0212 0155 0166 0167 0175
        """,
    "retry": """
        0014 0016 0023 0061 0036 0037 0038 0039 0040 0060 0064 0065 0090 0154 0187 0194 1075
        """,
    "auth": "0087",
    "hold": "0015 0026 0069 0095 0097 0099 0100 0238 0239 0241 0242",
    "look-first": "0009 0018 0046 0156",
}
LISTED = [(f"IMG.{number}", name) for name, text in CLASSES.items() for number in text.split()]


@pytest.mark.parametrize(("code", "name"), LISTED)
def test_a_listed_code_has_its_class_and_a_hint(code: str, name: str) -> None:
    advice = advice_for(code, 400)

    assert advice.error_class == ErrorClass(name)
    assert code in CATALOGUE
    assert 10 < len(advice.hint) < 160


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("IAM.0012", 429, "retry"),
        ("IAM.0062", 401, "auth"),
        ("IAM.0080", 403, "permanent"),
        ("IAM.0006", 500, "retry"),
        ("APIGW.0307", 401, "auth"),
        ("APIGW.0308", 429, "retry"),
        ("APIGW.0302", 403, "hold"),
        ("APIGW.0613", 503, "retry"),
        ("apigw.0308", 429, "retry"),
    ],
)
def test_the_codes_of_iam_and_gateway_are_known(code: str, status: int, expected: str) -> None:
    assert advice_for(code, status).error_class == expected


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("IMG.9999", 400, "permanent"),
        ("HTTP.404", 404, "permanent"),
        ("HTTP.403", 403, "permanent"),
        ("HTTP.401", 401, "auth"),
        ("HTTP.429", 429, "retry"),
        ("IMG.9999", 500, "retry"),
        ("HTTP.503", 503, "retry"),
        ("IMG.9999", None, "permanent"),
    ],
)
def test_for_an_unknown_code_the_status_decides(
    code: str, status: int | None, expected: str
) -> None:
    assert advice_for(code, status).error_class == expected


@pytest.mark.parametrize(
    ("status", "expected"), [(400, "permanent"), (502, "retry"), (504, "retry")]
)
def test_one_gateway_code_with_six_statuses_goes_by_status(status: int, expected: str) -> None:
    assert advice_for("APIGW.0201", status).error_class == expected


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("IMG.0023", Meaning.JOB_NOT_FOUND),
        ("HTTP.404", Meaning.JOB_NOT_FOUND),
        ("IMG.0027", Meaning.IMAGE_NOT_FOUND),
        ("IMG.0144", Meaning.IMAGE_NOT_FOUND),
        ("IMG.0060", Meaning.TOO_MANY_JOBS),
        ("IMG.0194", Meaning.TOO_MANY_JOBS),
        ("apigw.0308", Meaning.TOO_MANY_CALLS),
        ("IMG.0014", Meaning.UNSURE_AFTER_CREATE),
        ("IMG.0061", Meaning.UNSURE_AFTER_CREATE),
        ("IAM.0061", Meaning.ACCOUNT_LOCKED),
        ("IMG.0066", None),
        ("IMG.9999", None),
    ],
)
def test_some_codes_have_a_special_meaning(code: str, meaning: Meaning | None) -> None:
    assert meaning_of(code) is meaning


# The rules of a request in ims_config quote codes to the user, and decide nothing by them.
@pytest.mark.parametrize("package", [ims_worker, ims_producer, ims_ledger])
def test_no_other_module_names_a_code_of_the_cloud(package: object) -> None:
    [folder] = package.__path__  # type: ignore[attr-defined]  # a package
    naming = [
        path.name
        for path in Path(folder).rglob("*.py")
        if re.search(r"\b(IMG|IAM|APIGW)\.\d{4}", path.read_text())
    ]

    assert naming == ([Path(error_catalog.__file__).name] if package is ims_worker else [])
