"""Checks that the fast tests notice defects: `make mutations`.

Each mutation is a small edit of production code in a temporary copy; the tests named with it must
fail there. They pass in an unchanged copy first.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
SOURCES = ("config", "ledger", "producer", "worker", "sandbox")
COPIED = (*SOURCES, "tests", "benchmarks", "docs", "pyproject.toml")
IMPORTER = "tests/unit/test_importer.py"
PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One defect: the text `old` of a file becomes `new`; these tests must notice it."""

    defect: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        defect="a refused token also drops its newer replacement",
        file="worker/ims_worker/adapters/redis/lua/token_drop.lua",
        old="if redis.call('HGET', KEYS[1], 'sha') ~= ARGV[1] then",
        new="if false then",
        tests=("tests/integration/test_shared_token.py", "-k", "late_refusal"),
    ),
    Mutation(
        defect="a late refusal drops the newer token of the process",
        file="worker/ims_worker/adapters/otc/auth.py",
        old="if self._cached is not None and self._cached.token == refused.token:",
        new="if self._cached is not None:",
        tests=("tests/unit/test_token.py",),
    ),
    Mutation(
        defect="the POST is sent before the intent is committed",
        file="worker/ims_worker/importer.py",
        old="        record = self._admit(record, project)\n",
        new=(
            "        service.create_image(request, import_id=record.id)\n"
            "        record = self._admit(record, project)\n"
        ),
        tests=(IMPORTER,),
    ),
    Mutation(
        defect="messages of an older generation run",
        file="worker/ims_worker/adapters/redis/lua/acquire.lua",
        old="if current and current ~= ARGV[2] then",
        new="if false then",
        tests=("tests/integration/test_schedule.py",),
    ),
    Mutation(
        defect="one job more than the project may have",
        file="ledger/ims_ledger/transitions.py",
        old="if active + ahead < limit:",
        new="if active + ahead <= limit:",
        tests=(IMPORTER,),
    ),
    Mutation(
        defect="an unknown job fails the import",
        file="worker/ims_worker/importer.py",
        old='return self._uncertain(record, f"searching for its image: {problem}")\n        match',
        new="return self._failed(record, problem.failure)\n        match",
        tests=(IMPORTER,),
    ),
    Mutation(
        defect="a failed poll request fails the import",
        file="worker/ims_worker/importer.py",
        old="return self._later(record, poll, at_least=problem.retry_after)",
        new="return self._failed(record, problem.failure)",
        tests=(IMPORTER,),
    ),
    Mutation(
        defect="an import that waits for a person never settles",
        file="config/ims_config/records.py",
        old=" or self.needs_a_person",
        new="",
        tests=("tests/unit/test_waiting.py",),
    ),
    Mutation(
        defect="the client reads no codes of problem details",
        file="producer/ims_producer/backends/http.py",
        old="case ProblemCode.UNAUTHENTICATED | ProblemCode.FORBIDDEN:",
        new="case ProblemCode.UNAUTHENTICATED:",
        tests=("tests/unit/test_problem_details.py",),
    ),
    Mutation(
        defect="webhook signatures do not cover the body",
        file="worker/ims_worker/adapters/webhook_sender.py",
        old="sign(message_id, at, body)",
        new='sign(message_id, at, "")',
        tests=("tests/contract/test_webhook_sending.py",),
    ),
    Mutation(
        defect="webhooks reach private addresses",
        file="worker/ims_worker/adapters/public_http.py",
        old="return bare.is_global and not bare.is_multicast and not embeds",
        new="return True",
        tests=("tests/contract/test_webhook_sending.py", "tests/unit/test_webhooks.py"),
    ),
    Mutation(
        defect="logs contain the values of secrets",
        file="config/ims_config/logs.py",
        old='event[name] = "***"',
        new="pass",
        tests=("tests/unit/test_logs.py",),
    ),
    Mutation(
        defect="the backoff has no upper bound",
        file="worker/ims_worker/decisions.py",
        old="return min(first * float(2 ** min(max(attempts - 1, 0), 16)), LONGEST_BACK_OFF)",
        new="return first * float(2 ** min(max(attempts - 1, 0), 16))",
        tests=("tests/unit/test_decisions.py",),
    ),
    Mutation(
        defect="an image of another import is taken where IMS ignores the tag filter",
        file="worker/ims_worker/adapters/otc/ims.py",
        old="return [image for image in images if tags.intersection(image.tags)]",
        new="return images",
        tests=("tests/contract/test_ims_http.py",),
    ),
    Mutation(
        defect="an invalid stored request is never reported",
        file="worker/ims_worker/importer.py",
        old="return self._failed(record, invalid_request(exc))",
        new="return PollAgain(self.policy.longest, record, PollState())",
        tests=(IMPORTER,),
    ),
    Mutation(
        defect="an unreadable response to a create counts as not sent",
        file="worker/ims_worker/adapters/otc/ims.py",
        old="raise OutcomeUnknown(_unreadable(response, exc), tried=response.tried) from exc",
        new="raise NotSent(_unreadable(response, exc), tried=response.tried) from exc",
        tests=("tests/contract/test_ims_http.py",),
    ),
)


@contextmanager
def project_copy() -> Iterator[Path]:
    ignored = shutil.ignore_patterns("__pycache__", "*.db")
    with TemporaryDirectory() as name:
        for copied in COPIED:
            source = ROOT / copied
            if source.is_dir():
                shutil.copytree(source, Path(name) / copied, ignore=ignored)
            elif source.exists():
                shutil.copy(source, Path(name) / copied)
        yield Path(name)


def passes(folder: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass on the copy."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ":".join(str(folder / name) for name in SOURCES)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0


def result_of(mutation: Mutation) -> str:
    with project_copy() as folder:
        file = folder / mutation.file
        text = file.read_text()
        if text.count(mutation.old) != 1:
            return "text not found"
        file.write_text(text.replace(mutation.old, mutation.new))
        return "missed" if passes(folder, mutation.tests) else "detected"


def main(words: Sequence[str]) -> int:
    """Run all mutations, or those whose defect contains one of the words; 0 if all are detected."""
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not words or any(word in mutation.defect for word in words)
    ]
    with project_copy() as folder, ThreadPoolExecutor(PROCESSES) as pool:
        groups = list({mutation.tests for mutation in chosen})
        for tests, passed in zip(groups, pool.map(partial(passes, folder), groups), strict=True):
            if not passed:
                print(f"fails without a mutation: {' '.join(tests)}")
                return 1
    detected = 0
    with ThreadPoolExecutor(PROCESSES) as pool:
        for mutation, result in zip(chosen, pool.map(result_of, chosen), strict=True):
            detected += result == "detected"
            print(f"{result:<15} {mutation.defect}", flush=True)
    print(f"{detected} of {len(chosen)} detected")
    return 0 if chosen and detected == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
