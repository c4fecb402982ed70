"""Every code that matters for imports has a class and a word of advice."""

import pytest

from ims_config.records import ErrorClass
from ims_worker.adapters.otc.error_catalog import CATALOGUE, advice_for

# As classified in the research on the API: permanent, retry, auth, hold, look first.
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
