"""No two modules of the package import each other, on whatever way."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import cellscribe

ROOT = Path(cellscribe.__file__).parent.parent

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Modules of the packages in a folder, by name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports, at its top, inside functions or for type checking alone.

    ``from package import name`` counts as the module ``package.name`` where there is one, and as
    the package itself otherwise.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found & set(known)


def graph_of(root: Path) -> Graph:
    known = modules(root)
    return {name: imported(path, known) - {name} for name, path in known.items()}


def circles(graph: Graph) -> set[frozenset[str]]:
    """Groups of modules that reach each other (strongly connected components of two or more)."""
    reached = {}
    for start in graph:
        seen: set[str] = set()
        left = [*graph[start]]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += graph[name]
        reached[start] = seen
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
        if name in reached[name]
    }


def test_no_circle_of_imports() -> None:
    found = circles(graph_of(ROOT))
    assert not found, [sorted(each) for each in found]


def test_circles_are_found_wherever_an_import_stands(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    files = {
        "__init__": "",
        "a": "from made.b import x",
        "b": "def f():\n    from made import c",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import made.a",
        "d": "from made import e",
        "e": "def f():\n    import made.d",
        "f": "import made.a, made.d, json",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    graph = graph_of(tmp_path)
    assert circles(graph) == {
        frozenset({"made.a", "made.b", "made.c"}),
        frozenset({"made.d", "made.e"}),
    }
    # the library's own sorter agrees, before and after
    for opened, edge in ((False, None), (True, [("made.c", "made.a"), ("made.e", "made.d")])):
        for start, end in edge or ():
            graph[start].discard(end)
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError:
            order = []
        assert bool(order) == opened == (not circles(graph))
