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

# The codes of the IMS API reference; their classes are judgements on their texts.
CLASSES = {
    "permanent": """
        0001 0002 0003 0004 0005 0006 0007 0008 0011 0012 0013 0017 0019 0020 0021 0022 0024 0025
        0027 0028 0029 0030 0031 0033 0034 0041 0047 0054 0055 0056 0057 0058 0059 0062 0063 0066
        0067 0068 0071 0072 0073 0074 0075 0076 0077 0079 0080 0081 0083 0084 0085 0086 0089 0092
        0094 0096 0098 0104 0105 0106 0108 0109 0111 0115 0116 0117 0118 0119 0120 0121 0122 0123
        0125 0126 0127 0128 0130 0134 0135 0138 0140 0141 0144 0145 0153 0155 0160 0162 0163 0164
        0166 0167 0168 0169 0170 0171 0172 0173 0174 0175 0177 0178 0180 0183 0184 0186 0189 0190
        0192 0193 0195 0196 0197 0198 0212
        """,
    "retry": """
        0010 0014 0016 0023 0032 0036 0037 0038 0039 0040 0045 0053 0060 0061 0064 0065 0090 0110
        0112 0113 0114 0132 0136 0137 0139 0148 0154 0176 0179 0181 0187 0188 0191 0194 1075
        """,
    "auth": "0087",
    "hold": """
        0015 0026 0069 0088 0095 0097 0099 0100 0101 0102 0103 0133 0161 0165 0182 0185 0238 0239
        0241 0242
        """,
    "look-first": "0009 0018 0035 0046 0070 0156",
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
        ("IAM.0080", 403, "hold"),
        ("IAM.0002", 403, "hold"),
        ("IAM.0003", 403, "hold"),
        ("IAM.0006", 500, "retry"),
        ("APIGW.0307", 401, "auth"),
        ("APIGW.0308", 429, "retry"),
        ("APIGW.0302", 403, "hold"),
        ("APIGW.0613", 503, "retry"),
        ("apigw.0308", 429, "retry"),
        ("APIG.0308", 429, "retry"),
        ("APIG.0101", 404, "permanent"),
        ("apig.0302", 403, "hold"),
        ("APIG.0307", 401, "auth"),
        ("APIGW.0402", 403, "hold"),
    ],
)
def test_the_codes_of_iam_and_gateway_are_known(code: str, status: int, expected: str) -> None:
    assert advice_for(code, status).error_class == expected


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("IMG.9999", 400, "permanent"),
        ("HTTP.404", 404, "permanent"),
        ("HTTP.403", 403, "hold"),
        ("Forbidden", 403, "hold"),
        ("IMG.9999", 403, "hold"),
        ("IMG.0057", 403, "hold"),
        ("HTTP.418", 418, "hold"),
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


def test_an_unlisted_code_is_said_to_be_unknown() -> None:
    assert "does not know this code" in advice_for("IMG.9999", 400).hint
    assert "does not know this code" in advice_for("IMG.9999", 500).hint
    assert "does not know this code" not in advice_for("HTTP.400", 400).hint
    assert "does not know this code" not in advice_for("HTTP.502", 502).hint


def test_a_token_too_large_for_a_header_has_a_hint() -> None:
    for code, status in (("APIGW.0201", 494), ("APIG.0201", 414), ("HTTP.431", 431)):
        assert "token may be too large" in advice_for(code, status).hint


@pytest.mark.parametrize(
    ("status", "expected"), [(400, "permanent"), (502, "retry"), (504, "retry")]
)
def test_one_gateway_code_with_six_statuses_goes_by_status(status: int, expected: str) -> None:
    assert advice_for("APIGW.0201", status).error_class == expected


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("IMG.0023", Meaning.JOB_NOT_FOUND),
        ("HTTP.404", None),
        ("IMG.0027", Meaning.IMAGE_NOT_FOUND),
        ("IMG.0144", Meaning.IMAGE_NOT_FOUND),
        ("IMG.0060", Meaning.TOO_MANY_JOBS),
        ("IMG.0194", Meaning.TOO_MANY_JOBS),
        ("apigw.0308", Meaning.TOO_MANY_CALLS),
        ("IMG.0014", Meaning.UNSURE_AFTER_CREATE),
        ("IMG.0061", Meaning.UNSURE_AFTER_CREATE),
        ("IAM.0061", Meaning.ACCOUNT_LOCKED),
        ("IMG.0066", Meaning.IMAGE_NOT_FOUND),
        ("IMG.0086", Meaning.IMAGE_NOT_FOUND),
        ("APIG.0308", Meaning.TOO_MANY_CALLS),
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
