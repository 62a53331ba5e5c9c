"""docs/architecture.md held against the code: rooms and their order, verbs and their files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from support import markdown

import cellscribe
from cellscribe.cli import app

PACKAGE = Path(cellscribe.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
DATA = {"bundled", "presets"}
"""Folders of the package that hold no code."""
TOP = {"__init__", "__main__"}


def rows(name: str) -> list[dict[str, list[str]]]:
    """Rows of a marked table of the page; each cell as the names that stand in it."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    head, *body = markdown.tables(found[1])[""]
    return [dict(zip(head, (names(cell) for cell in row), strict=True)) for row in body]


def names(cell: str) -> list[str]:
    return [name.strip(" `") for name in cell.split(",") if name.strip(" `–")]


ORDER = [room.rstrip("/") for row in rows("order") for room in row["room"]]
VERBS = {row["verb"][0]: row for row in rows("verbs")}
OF_VERB = [pytest.param(verb, id=verb) for verb in VERBS]


def commands(at: App, above: str = "") -> Iterator[str]:
    """Every command that the help lists."""
    for name in at:
        if name.startswith("-") or not at[name].show:
            continue
        below = list(commands(at[name], f"{above}{name} "))
        yield from below or [f"{above}{name}"]


def imports(path: Path) -> Iterator[str]:
    """Rooms that a file imports from, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "cellscribe":
            yield from (alias.name for alias in node.names if alias.name in ORDER)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
            yield from (m.split(".")[1] for m in modules if m.startswith("cellscribe."))
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            yield from (m.split(".")[1] for m in modules if m.startswith("cellscribe."))


def test_the_page_names_every_room() -> None:
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    there |= {path.stem for path in PACKAGE.glob("*.py")} - TOP
    assert set(ORDER) == there
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set(ORDER) | DATA


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_those_above_it(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    allowed = {*ORDER[: ORDER.index(room) + 1]}
    wrong = {
        f"{path.relative_to(PACKAGE)} imports from {other}"
        for path in files
        for other in imports(path)
        if other not in allowed
    }
    assert not wrong


def test_every_command_is_in_the_table_once() -> None:
    listed = [command for row in VERBS.values() for command in row["commands"]]
    of_the_program = ["completion", "help"]
    assert sorted([*listed, *of_the_program]) == sorted(commands(app))


def test_every_function_is_in_the_table_once() -> None:
    listed = [name for row in VERBS.values() for name in row["functions"]]
    assert len(listed) == len(set(listed))
    functions = {name for name in cellscribe.__all__ if name.islower()}
    assert set(listed) | {"sample"} == functions
    assert all(callable(getattr(cellscribe, name)) for name in listed)


@pytest.mark.parametrize("verb", OF_VERB)
def test_the_files_of_a_verb_have_its_name(verb: str) -> None:
    for where in ("api", "cli", "config"):
        expected = f"{where}/{verb}.py"
        if VERBS[verb][where]:
            assert VERBS[verb][where] == [expected]
            assert (PACKAGE / expected).is_file(), expected
        else:
            assert not (PACKAGE / expected).exists(), expected
    (room,) = VERBS[verb]["room"]
    assert (PACKAGE / room).is_dir()


@pytest.mark.parametrize("verb", OF_VERB)
def test_functions_and_commands_live_in_their_files(verb: str) -> None:
    row = VERBS[verb]
    homes = {getattr(cellscribe, name).__module__ for name in row["functions"]}
    assert f"cellscribe.api.{verb}" in homes
    for command in row["commands"]:
        at = app
        for word in command.split():
            at = at[word]
        assert at.default_command is not None
        assert at.default_command.__module__ == f"cellscribe.cli.{verb}"


def test_every_file_of_the_command_line_is_a_verb() -> None:
    files = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    assert files - {
        "__init__",
        "app",
        "bench",
        "examples",
        "progress",
        "renamed",
        "sharing",
        "written",
    } == set(VERBS)
