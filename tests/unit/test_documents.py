"""The documents match the product: links, commands, targets, settings, HTTP paths and states."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from ims_config.records import State
from ims_config.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")])
    if page.name != "CHANGELOG.md"
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_of(text: str) -> list[str]:
    """The code blocks and the inline code of a page."""
    block = r"(?ms)^ *```\w*\n(.*?)^ *```"
    return re.findall(block, text) + re.findall(r"`([^`\n]+)`", re.sub(block, "", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_resolves(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())

    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_and_stage_exists(page: Path) -> None:
    code = "\n".join(code_of(page.read_text()))
    targets = set(re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text()))
    stages = set(re.findall(r"(?m)^stage_(\w+)\(\)", (ROOT / ".ci" / "run").read_text()))

    assert set(re.findall(r"(?<![\w-])make (\w+)", code)) <= targets
    for named in re.findall(r"\.ci/run((?: \w+)*)", code):
        assert set(named.split()) <= stages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_exists(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    elsewhere = {f"{PREFIX}SECRETS_DIR"}

    named = set(re.findall(rf"{PREFIX}(?!TEST_)[A-Z_]+", page.read_text()))

    assert {name for name in named if not name.endswith("_")} - known - elsewhere == set()


def external_names(kind: str) -> list[str]:
    """Names of one kind in the list that `test_external_names.py` compares with the product."""
    groups = json.loads((ROOT / "tests" / "external_names.json").read_text()).values()
    return [name for group in groups for name in group.get(kind, [])]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists(page: Path) -> None:
    commands = {name.split()[1] for name in external_names("cli")} - {"--install-completion"}
    code = "\n".join(code_of(page.read_text()))

    named = set(re.findall(r"(?m)(?:^|[ (`])ims-import ([a-z]+)\b(?![:.])", code))

    assert named - commands == set()


def test_the_table_of_the_http_api_is_complete() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    operations = {" ".join(name.split()[:2]) for name in external_names("http")}
    shown = set(re.findall(r"`((?:GET|POST|DELETE) /[^\s`]*)`", page))

    assert shown == {re.sub(r"\{\w+\}", "{id}", operation) for operation in operations}


def test_the_state_diagram_is_the_transition_table() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    script = runpy.run_path(str(ROOT / "docs" / "state_diagram.py"))

    assert script["diagram"]() in page, "run: .venv/bin/python docs/state_diagram.py"
    assert script["updated"](page) == page


def test_every_state_is_explained() -> None:
    rows = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs" / "states.md").read_text()))

    assert rows == {str(state) for state in State}


@pytest.mark.parametrize(
    "file",
    [
        ROOT / ".pre-commit-config.yaml",
        *sorted((ROOT / ".github").rglob("*.yml")),
        ROOT / "config" / "watch.example.yaml",
    ],
    ids=name_of,
)
def test_yaml_files_parse(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_hooks_run_the_tools_of_the_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()

    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    for hook in hooks:
        tool, *arguments = hook["entry"].split()
        assert tool.startswith(".venv/bin/")
        if not hook.get("pass_filenames", True):
            command = " ".join([tool.replace(".venv/bin", "$(BIN)"), *arguments])
            assert f"\t{command}\n" in makefile, "a hook and `make lint` run the same command"


def names_in(path: Path) -> set[str]:
    """Functions, classes and methods (`Class.method`) that a module defines."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, definitions)]
    classes = [node for node in top if isinstance(node, ast.ClassDef)]
    methods = {
        f"{node.name}.{method.name}"
        for node in classes
        for method in node.body
        if isinstance(method, definitions)
    }
    return {node.name for node in top} | methods


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_function_exists(page: Path) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".venv"}
    quoted = re.findall(r"`([\w./-]+?)(?:::([\w.]+))?`", page.read_text())

    missing = [
        f"{path}::{name}" if name else path
        for path, name in quoted
        if path.partition("/")[0] in folders
        and "/" in path
        and not path.startswith("deploy/secrets")
        and (not (ROOT / path).exists() or (name and name not in names_in(ROOT / path)))
    ]

    assert missing == []
