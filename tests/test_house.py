"""Rules for the layout and the names of the code, and docs/architecture.md against the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

APP = REPOSITORY / "app"
MODULES = sorted(APP.rglob("*.py"))
PACKAGES = sorted({module.parent for module in MODULES})
MAX_FILES = 14

VAGUE = {"told", "kept", "taste", "tastes", "moment", "moments", "wish", "wishes", "looks", "turns"}
VAGUE |= {"crowd", "crowds", "sheet", "sheets", "everything", "everyone"}
"""Words that do not say what a thing is: each has a standard term (prior, cache, request, context, holdout ...)."""

TESTED_ELSEWHERE = {
    "tables: tests/db/test_engine.py compares them with the migrations": "*/models.py db/tables.py",
    "requests and responses: tested through the routes": "*/schemas.py",
    "compiled loops: tested through the module that calls them": "*/*kernels.py engine/sgd/kernel_template.py",
    "vector instructions and types of kernels": "engine/simd/float_vectors.py engine/numba_types.py",
    "tests/api_keys/test_keys.py": "api_keys/api.py api_keys/keyring.py",
    "tests/engine/losses/test_codegen.py": "engine/losses/catalog.py engine/losses/derivatives.py",
    "tests/engine/losses/ and tests/engine/library/": "engine/losses/symbols.py engine/library/slopes.py",
    "tests/engine/sgd/test_local.py fits": "engine/sgd/finalize.py engine/sgd/refit.py engine/sgd/trainer.py",
    "tests/ratings/test_bulk_import.py": "imports/line_import.py imports/file_options.py ratings/checks.py",
}
"""Modules that need no test file of their name, by the reason or the tests that cover them."""


def in_app(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def words(identifier: str) -> set[str]:
    """The parts of a snake_case or CamelCase name, in lower case."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", identifier)}


def identifiers(module: Path) -> Iterator[tuple[str, int]]:
    """Every name in a module with its line; texts that look like names count, as of columns and JSON fields."""
    yield module.stem, 0
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.alias(name=name, asname=asname):
                yield asname or name, node.lineno
            case ast.Constant(value=str(name)) if name.isidentifier():
                yield name, node.lineno


@pytest.mark.parametrize("module", MODULES, ids=in_app)
def test_names_say_what_a_thing_is(module: Path) -> None:
    vague = {name: line for name, line in identifiers(module) if words(name) & VAGUE}
    assert vague == {}


@pytest.mark.parametrize("package", PACKAGES, ids=in_app)
def test_a_folder_holds_few_files(package: Path) -> None:
    assert len(list(package.glob("*.py"))) <= MAX_FILES


@pytest.mark.parametrize("package", PACKAGES, ids=in_app)
def test_a_package_says_what_it_contains(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    sentences = re.findall(r"[.:?](?=\s|$)", docstring)
    assert len(sentences) >= 2, docstring


def has_test(module: Path) -> bool:
    inside = module.relative_to(APP)
    elsewhere = any(inside.match(pattern) for patterns in TESTED_ELSEWHERE.values() for pattern in patterns.split())
    return elsewhere or (REPOSITORY / "tests" / inside.with_name(f"test_{inside.name}")).exists()


def test_every_module_has_a_test_file_of_its_name() -> None:
    modules = [module for module in MODULES if module.stem not in ("__init__", "__main__")]
    assert [in_app(module) for module in modules if not has_test(module)] == []


ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
HOP = re.compile(r"`(app/[\w/]+\.py): (\w+)`")
EXAMPLE = "app/file.py"


def way(title: str) -> list[tuple[str, str]]:
    """File and function of each hop in the numbered steps of a section of docs/architecture.md, in order."""
    _, _, rest = ARCHITECTURE.read_text().partition(f"\n## {title}\n")
    steps = re.findall(r"^ *\d+\. .*(?:\n +.*)*", rest.partition("\n## ")[0], re.MULTILINE)
    return HOP.findall("\n".join(steps))


def definitions(module: Path) -> set[str]:
    """The functions, methods and classes of a module."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, kinds)}


def test_the_functions_of_the_architecture_page_exist() -> None:
    named = [hop for hop in HOP.findall(ARCHITECTURE.read_text()) if hop[0] != EXAMPLE]
    assert [f"{file}: {name}" for file, name in named if name not in definitions(REPOSITORY / file)] == []


@pytest.mark.parametrize(
    ("title", "max_hops", "max_files"), [("A rating", 10, 4), ("A list", 22, 9), ("A training run", 40, 20)]
)
def test_the_way_of_a_request_is_short(title: str, max_hops: int, max_files: int) -> None:
    steps = way(title)
    assert 0 < len(steps) <= max_hops
    assert len({file for file, _ in steps}) <= max_files
