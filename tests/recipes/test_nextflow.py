"""The Nextflow module without Nextflow: its blocks filled in as Nextflow would, and run by bash."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import COUNTS, write
from support.recipes import RECIPES, environment

import cellscribe

yaml: Any = pytest.importorskip("yaml")
MODULE = RECIPES / "nextflow/modules/local/cellscribe/embed"
MAIN = (MODULE / "main.nf").read_text(encoding="utf-8")
META = yaml.safe_load((MODULE / "meta.yml").read_text(encoding="utf-8"))
OUTPUT = re.compile(r'path\(?\s*"(?P<path>[^"]+)"\)?\s*,\s*emit:\s*(?P<name>\w+)')


def block(name: str) -> str:
    """Text of a block of the process, up to the next one."""
    found = re.search(rf"^    {name}:\n(.*?)(?=^    \w+:\n|^}})", MAIN, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def filled(name: str, values: dict[str, str]) -> str:
    """Give the command of a block: variables put in, escapes undone, indentation taken off."""
    code, command, _ = block(name).split('"""')
    for variable in re.findall(r"^\s+(?:def )?(\w+) = ", code, re.MULTILINE):
        assert variable in values, f"{variable} is set and never used"
    text = textwrap.dedent(command)
    text = re.sub(r"(?<!\\)\$\{([\w.]+)\}", lambda found: values[found[1]], text)
    return text.replace("\\$", "$").replace("\\\\", "\\")


@pytest.mark.parametrize("name", ["script", "stub"])
def test_a_block_makes_what_the_process_declares(name: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    source = write(work / "cells.h5ad", COUNTS)
    values = {
        "h5ad": source.name,
        "prefix": "sample 1".replace(" ", "_"),
        "key": "X_cellscribe",
        "model_arg": "",
        "args": "--dtype float16",
        "task.cpus": "1",
        "task.process": "EMBED:CELLSCRIBE_EMBED",
    }
    command = filled(name, values)
    # as Nextflow runs a task: bash -ue in the task's folder
    subprocess.run(["bash", "-ue", "-c", command], cwd=work, env=environment(tmp_path), check=True)
    outputs = {found["name"]: found["path"] for found in OUTPUT.finditer(block("output"))}
    assert outputs.keys() == {"h5ad", "obsm", "versions"}
    paths = {
        key: work / path.replace("${prefix}", values["prefix"]) for key, path in outputs.items()
    }
    assert all(path.is_file() for path in paths.values())
    versions = yaml.safe_load(paths["versions"].read_text())
    assert versions[values["task.process"]]["cellscribe"] == cellscribe.__version__
    if name == "stub":
        return
    table, cells = pq.read_table(paths["obsm"]), ad.read_h5ad(paths["h5ad"])
    assert table["cell_id"].to_pylist() == list(cells.obs_names)
    vectors = np.stack(table["embedding"].to_numpy())
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, cells.obsm["X_cellscribe"])
    np.testing.assert_array_equal(cells.X.toarray(), COUNTS.toarray())


def test_meta_says_what_the_process_declares() -> None:
    outputs = {found["name"]: found["path"] for found in OUTPUT.finditer(block("output"))}
    declared = {}
    for name, channel in META["output"].items():
        # a tuple is a list of elements, a single path is an element
        elements = [e for part in channel for e in (part if isinstance(part, list) else [part])]
        (declared[name],) = (key for element in elements for key in element if key != "meta")
        assert all(e[key]["type"] for e in elements for key in e)
    assert declared == outputs
    inputs = [
        [key for element in (part if isinstance(part, list) else [part]) for key in element]
        for part in META["input"]
    ]
    given = re.findall(r"^\s+(?:tuple )?(.+)$", block("input"), re.MULTILINE)
    assert [re.findall(r"(?:val|path)[ (](\w+)", line) for line in given] == inputs
    assert f"process {META['name'].upper()} " in MAIN
    assert META["topics"]["versions"] == META["output"]["versions"]
    # nf-core's schema: three words or more, and a licence in a list
    assert len(set(META["keywords"])) >= 3
    (tool,) = META["tools"]
    assert isinstance(tool["cellscribe"]["licence"], list)


def test_patterns_of_meta_match_the_files() -> None:
    from fnmatch import fnmatch

    for channel in META["output"].values():
        for part in channel:
            for element in part if isinstance(part, list) else [part]:
                for name, about in element.items():
                    if about["type"] == "file":
                        assert fnmatch(name.replace("${prefix}", "s1"), about["pattern"])


def test_versions_are_those_of_the_project() -> None:
    pinned = yaml.safe_load((MODULE / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pinned == [f"cellscribe=={cellscribe.__version__}"]
    assert f":{cellscribe.__version__}" in re.findall(r'container "([^"]+)"', MAIN)[0]
