"""What the documents tell a reader to type, held against the command line as it is."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from markdown_it import MarkdownIt

from cellscribe.cli import app
from cellscribe.config import ModelConfig, TrainOptions, from_mapping, preset_names
from cellscribe.evaluation.results import FOLDER, read_all
from cellscribe.report.evaluation_page import render_markdown, tables

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
# those in folders are templates, whose commands tests/recipes runs
RECIPES = sorted(path for path in (ROOT / "recipes").iterdir() if path.is_file())
COMMAND = re.compile(r"(?:^|.*\s)cellscribe (?=[a-z-])")


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each code block of a page; a recipe is one block."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        yield path.suffix[1:], text
        return
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def spans(path: Path) -> Iterator[str]:
    """Text of each code span of a page."""
    page = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    for token in page:
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def commands(text: str) -> Iterator[list[str]]:
    """Words behind ``cellscribe`` of each command line, comments and what follows a pipe cut."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("#"):
            line = line.partition(": ")[2]  # "# what for: cellscribe ..." is to be typed, too
            if not line.startswith("cellscribe"):
                continue
        if found := COMMAND.match(line):
            words = shlex.split(line[found.end() :], comments=True)
            ends = (i for i, word in enumerate(words) if word in ("||", "&&", "|", "&", ";"))
            yield words[: next(ends, len(words))]


def without_config(words: list[str]) -> list[str]:
    """Drop what belongs to the program around the verbs."""
    if "--config" not in words:
        return words
    at = words.index("--config")
    if words[at + 1].startswith("recipes/"):
        assert (ROOT / words[at + 1]).is_file()
    return words[:at] + words[at + 2 :]


def verb_of(words: list[str]) -> tuple[App, list[str]]:
    """Follow words to the verb that they name, and return it with what is left."""
    at = app
    while words and words[0] in at and not words[0].startswith("-"):
        at, words = at[words[0]], words[1:]
    return at, words


def assert_exists(words: list[str]) -> None:
    """Check a verb and its flags, whether or not all that it requires is there."""
    verb, rest = verb_of(without_config(words))
    assert verb is not app or words[0].startswith("--")
    named = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert named <= flags_of(verb)


def flags_of(verb: App) -> set[str]:
    arguments = verb.assemble_argument_collection() if verb.default_command else ()
    return {name for argument in arguments for name in argument.names} | {"--help", "--version"}


IN_BLOCKS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in (*PAGES, *RECIPES)
    for _, text in blocks(path)
    for words in commands(text)
]
IN_SPANS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in PAGES
    for text in spans(path)
    for words in commands(text)
]


def test_commands_are_found() -> None:
    assert list(commands("a -m cellscribe info \\\n mini || b\n# x: cellscribe report r\n")) == [
        ["info", "mini"],
        ["report", "r"],
    ]
    found = {words[0] for path in PAGES for _, text in blocks(path) for words in commands(text)}
    assert {"embed", "corpus", "train", "report"} <= found


@pytest.mark.parametrize("words", IN_BLOCKS)
def test_a_command_line_parses(words: list[str]) -> None:
    if "--config" in words:  # and what a verb requires may lie in the file
        assert_exists(words)
        return
    if words == ["--help"]:
        return
    app.config = ()  # the presets that the program lays under the flags need not be there
    _, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    preset = str(bound.arguments.get("preset", "mini"))
    assert preset in preset_names() or preset.endswith(".toml")


@pytest.mark.parametrize("words", IN_SPANS)
def test_a_command_in_the_text_names_what_exists(words: list[str]) -> None:
    assert_exists(words)


@pytest.mark.parametrize("path", [ROOT / "docs/training.md"], ids=lambda path: path.name)
def test_flags_in_the_text_exist(path: Path) -> None:
    every = flags_of(app["train"]) | {"--config", "--max-restarts", "--vocabulary", "--task"}
    named = {w.partition("=")[0] for s in spans(path) for w in s.split() if w.startswith("--")}
    assert len(named) > 20
    assert named <= every


def keys_of(table: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{above}{key}.")
        else:
            yield f"--{above}{key}".replace("_", "-")


TOMLS = [
    pytest.param(text, id=f"{path.name} {number}")
    for path in (*PAGES, *RECIPES)
    for number, (kind, text) in enumerate(blocks(path))
    if kind == "toml"
]


@pytest.mark.parametrize("text", TOMLS)
def test_settings_in_files_exist(text: str) -> None:
    tables = tomllib.loads(text)
    if tables.keys() <= {"model", "training"}:
        from_mapping(ModelConfig, tables["model"], "model")
        from_mapping(TrainOptions, tables["training"], "training")
        return
    for name, table in tables.items():
        path = [name, *(key for key in table if name == "corpus")]
        verb, rest = verb_of(path)
        assert not rest
        keys = set(keys_of(table[path[1]] if path[1:] else table))
        assert keys
        assert keys <= flags_of(verb)


def test_the_slurm_recipe_is_a_script() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "recipes/slurm.sh")], check=True)


def test_the_kubernetes_recipe_holds_together(tmp_path: Path) -> None:
    yaml: Any = pytest.importorskip("yaml")
    text = (ROOT / "recipes/kubernetes.yaml").read_text(encoding="utf-8")
    service, job = yaml.safe_load_all(text)
    name = job["metadata"]["name"]
    # a Job names its pods after itself, a headless Service of that selector gives the names
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    assert f"--rdzv-endpoint {name}-0.{pod['subdomain']}:" in script
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    words = shlex.split(script)
    assert words[words.index("--nproc-per-node") + 1] == str(gpus)
    nodes = int(words[words.index("--nnodes") + 1])
    assert nodes == job["spec"]["completions"] == job["spec"]["parallelism"]
    TrainOptions().accumulation(nodes * gpus)
    assert TrainOptions().lanes % (nodes * gpus) == 0
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    path = tmp_path / "pod.sh"
    path.write_text(script)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_report_of_the_bundled_model_is_not_stale() -> None:
    folder = ROOT / "benchmarks" / "evaluation"
    results = read_all(folder / FOLDER)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text == render_markdown(tables(results), results)
