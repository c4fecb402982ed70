"""The documentation of the API lists every problem code with its status."""

import re
from pathlib import Path

from ims_producer.http_contract import ProblemCode

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_problem_code_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+)", DOCS.read_text(), re.MULTILINE)
    documented = dict(rows)

    assert set(ProblemCode) == set(documented)
    for code in ProblemCode:
        assert str(int(code.status)) in documented[code]
