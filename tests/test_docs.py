"""The documentation agrees with the code."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.main import get_command

from app.cli.__main__ import app as cli
from app.main import create_app
from app.settings import Settings
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
EXAMPLES = {"app/file.py", "benchmarks/results"}  # not files of the repository
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])


def setting_rows(model: type[BaseModel], prefix: str = "PALATE_") -> Iterator[tuple[str, str, str]]:
    """Variable, default and description of each setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_rows(field.annotation, f"{prefix}{name.upper()}_")
        else:
            default = f"{field.default.total_seconds():g} s" if isinstance(field.default, timedelta) else field.default
            description = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", field.description or "")
            yield f"{prefix}{name.upper()}", "unset" if default is None else str(default), description


def test_every_setting_is_documented_as_in_the_code_and_nothing_else_is() -> None:
    documented = re.findall(
        r"^\| `(PALATE_\w+)` \| (.*?) \| (.*) \|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    assert documented == list(setting_rows(Settings))


def test_every_route_is_documented_and_nothing_else_is() -> None:
    document = create_app(Settings(trainer="external")).openapi()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    documented = re.findall(r"^\| `([A-Z]+ /\S*)` \|", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(routes)


def commands(group: object, prefix: str = "palate") -> Iterator[tuple[str, str]]:
    """Each command and its help text."""
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command.help


def test_every_command_is_documented_with_its_help_text_and_nothing_else_is() -> None:
    row = r"^\| `(palate [a-z -]+?)(?: [A-Z].*)?` \| (.*) \|$"
    documented = re.findall(row, (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(commands(get_command(cli)))


def test_the_code_of_the_tutorial_runs_and_its_claims_hold() -> None:
    """All blocks one after the other, as a reader would; their asserts are what the text claims."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "tutorial-factorize.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_readme_names_the_two_commands(command: str) -> None:
    assert f"make {command}" in (REPOSITORY / "README.md").read_text()


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_modules_that_are_mentioned_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"\b((?:app|tests|benchmarks|migrations|docker|examples)/[\w/.-]*\w)", text)
    modules = re.findall(r"\b((?:app|benchmarks)(?:\.[a-z]\w*)+)", text)
    files += [f"{module.replace('.', '/')}" for module in modules if not module.endswith(".py")]
    absent = [file for file in files if not exists(REPOSITORY / file) and file not in EXAMPLES]
    assert absent == []


def exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`, a module of this name, or a module that may define this name."""
    return path.exists() or path.with_suffix(".py").exists() or path.parent.with_suffix(".py").exists()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_that_are_mentioned_exist(page: Path) -> None:
    settings = {name for name, _, _ in setting_rows(Settings)}
    known = {*settings, *(f"{name}_FILE" for name in settings)}
    for file in (".env.example", "docker-compose.yml", "tests/conftest.py", ".ci/run"):
        known |= set(re.findall(r"PALATE_[A-Z_]*[A-Z]", (REPOSITORY / file).read_text()))
    mentioned = re.findall(r"(PALATE_[A-Z_]*[A-Z])(_\*|_\.\.\.)?", page.read_text())
    groups = {name for name, rest in mentioned if rest}
    assert {name for name, rest in mentioned if not rest} - known == set()
    assert {group for group in groups if not any(name.startswith(f"{group}_") for name in known)} == set()


def test_every_decision_is_in_the_index() -> None:
    decisions = sorted(page.name for page in (DOCS / "decisions").glob("0*.md"))
    listed = re.findall(r"\]\((0[\w-]+\.md)\)", (DOCS / "decisions" / "README.md").read_text())
    assert sorted(listed) == decisions


def test_every_page_is_in_the_index() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text())
    assert sorted(linked) == sorted(page.name for page in DOCS.glob("*.md") if page.name != "index.md")


def test_every_file_that_the_readme_sends_is_made_there_before() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    sent = re.findall(r"@(\S+)", readme)
    assert sent
    for file in sent:
        assert f"> {file}\n" in readme.partition(f"@{file}")[0]
