"""Manners of the command line: examples, quiet and verbose, JSON, completion, one vocabulary."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App
from support.command import COUNTS, Cli, refused, write
from support.tiny import WIDTH

from cellscribe.cli import app
from cellscribe.cli.examples import EXAMPLES

HIDDEN = {"bench"}
"""A verb that has left, and says so."""


def verbs(program: App = app, before: str = "") -> list[str]:
    found = []
    for name in program:
        if name.startswith("-") or name in HIDDEN:
            continue
        command = program[name]
        if command.default_command is None:
            found += verbs(command, f"{before}{name} ")
        else:
            found.append(before + name)
    return found


def test_every_verb_has_examples_that_it_takes(run: Cli) -> None:
    assert set(EXAMPLES) == set(verbs())
    for verb, lines in EXAMPLES.items():
        told = run(*verb.split(), "--help").out
        for line in lines:
            assert f"\n    cellscribe {line}\n" in told, "it is broken in a terminal of 80 columns"
            words = shlex.split(line.partition(" >")[0])
            command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
            assert command.__name__.rstrip("_") == verb.split()[-1]
            assert bound.arguments


def test_help_is_a_verb_too(run: Cli) -> None:
    for verb in ("embed", "index build"):
        assert run("help", *verb.split()) == run(*verb.split(), "--help")
    assert run("help") == run("--help")
    assert "no verb 'bild'; index has build, add" in refused(run("help", "index", "bild"))
    assert "embed has none" in refused(run("help", "embed", "cells"))


def test_versions(run: Cli) -> None:
    assert run("-V") == run("--version")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_verbs_and_options(shell: str, run: Cli, tmp_path: Path) -> None:
    script = run("completion", shell)
    assert (script.status, script.err) == (0, "")
    assert "embed" in script.out
    assert "key-added" in script.out
    if shell == "bash":
        (tmp_path / "script").write_text(script.out)
        typed = "COMP_WORDS=(cellscribe emb); COMP_CWORD=1"
        ask = f"source ./script; {typed}; _cellscribe; echo $COMPREPLY"
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == ["embed"]


def test_quiet_leaves_warnings_and_errors(
    run: Cli, cells: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["embed", cells, "-o", tmp_path / "a.npy", "--model", tiny_model]
    loud = run(*words)
    quiet = run(*words, "--overwrite", "--quiet")
    said = [line for line in loud.err.splitlines() if line.startswith("Warning: ")]
    assert (quiet.out, quiet.err.splitlines()) == (loud.out, said)
    assert len(loud.err.splitlines()) > len(said)
    assert "no such file" in refused(run("embed", "none.h5ad", "-o", tmp_path / "b.npy", "-q"))
    assert "leave one out" in refused(run("info", "-q", "-v"))


def test_failures_are_listed_however_quiet(
    run: Cli, cells: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.h5ad").write_bytes(b"no cells")
    words = [cells, tmp_path / "bad.h5ad", "-o", tmp_path / "out", "--model", tiny_model]
    quiet = run("embed", *words, "--quiet", "--json")
    assert quiet.status == 1
    assert "\n1 failed:\n  bad " in f"\n{quiet.err}"
    states = {shard["name"]: shard["status"] for shard in json.loads(quiet.out)["shards"]}
    assert states == {cells.stem: "done", "bad": "failed"}


def test_verbose_says_when_and_where(
    run: Cli, cells: Path, tiny_model: Path, tmp_path: Path
) -> None:
    told = run("embed", cells, "-o", tmp_path / "a.npy", "--model", tiny_model, "-v").err
    assert all(line.startswith("[") and " s] " in line for line in told.splitlines())
    told = run("embed", "none.h5ad", "-o", tmp_path / "b.npy", "--verbose").err
    assert told.startswith("Traceback")
    assert told.splitlines()[-1] == "cellscribe: none.h5ad: no such file; check the path"


def test_json_of_embed(run: Cli, tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "cells.h5ad"
    write(source, COUNTS)
    done = run("embed", source, "-o", tmp_path / "a.npy", "--model", tiny_model, "--json")
    told = json.loads(done.out)
    assert told["written"] == [str(tmp_path / "a.npy")]
    assert (told["cells"], told["vector_size"]) == np.load(tmp_path / "a.npy").shape
    assert told["vector_size"] == WIDTH
    assert told["genes"]["all"] == COUNTS.shape[1]
    assert told["provenance"]["model"] == "tiny"


def test_json_of_info(run: Cli, tiny_model: Path) -> None:
    import cellscribe

    assert json.loads(run("info", tiny_model, "--json").out) == cellscribe.info(tiny_model)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embed", "x.h5ad", "-o", "y.npy", "--color-by", "kind"], "add --map PNG"),
        (["embed", "x.h5ad", "-o", "y", "--color-by", "kind"], "add --map PNG"),
        (["info", "scgpt"], "cellscribe import SOURCE"),
    ],
)
def test_what_would_be_taken_in_silence_or_without_advice(
    words: list[str], told: str, run: Cli
) -> None:
    assert told in refused(run(*words))
