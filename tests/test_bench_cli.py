"""`cellscribe bench` is gone: one line says what to type instead."""

from __future__ import annotations

import shlex

import pytest
from support.command import Cli, refused

from cellscribe.cli import app


@pytest.mark.parametrize("words", [(), ("embed", "--data", "cells"), ("train", "--preset", "x")])
def test_bench_names_its_successors(run: Cli, words: tuple[str, ...]) -> None:
    line = refused(run("bench", *words))
    assert "cellscribe evaluate" in line
    assert "--task performance" in line
    assert "python -m benchmarks" in line


def test_what_it_says_to_type_parses(run: Cli) -> None:
    typed = refused(run("bench")).split("`")[1]
    name, *words = shlex.split(typed)
    assert name == "cellscribe"
    app.config = ()
    _, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert bound.arguments["models"] == ["MODEL"]


def test_help_does_not_list_it(run: Cli) -> None:
    assert " bench " not in run("--help").out
