"""The words of errors: on the command line, and in Python."""

from __future__ import annotations

import pickle
import traceback
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import Cli, refused

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.errors import (
    LONGEST,
    InputError,
    boundary,
    for_python,
    one_line,
    printable,
    spoken_by,
)


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("use --layer counts", 'use layer="counts"'),
        ("use --layer 'my counts'", 'use layer="my counts"'),
        ("use --layer layers/raw", 'use layer="layers/raw"'),
        ("in a layer named with --layer; values", "in a layer named with layer=...; values"),
        ("name one with --layer: X, umi", "name one with layer=...: X, umi"),
        ("are taken (--counts tpm)", 'are taken (counts="tpm")'),
        ("give --gene-key NAME.", 'give gene_key="NAME".'),
        ("--start and --goal are both", "start=... and goal=... are both"),
        (
            "give --resume to go on, or --overwrite.",
            "give resume=True to go on, or overwrite=True.",
        ),
        ("--n-neighbors 5 or --hidden-layer -2", "n_neighbors=5 or hidden_layer=-2"),
        ("a well-known file--name, and x--y", "a well-known file--name, and x--y"),
    ],
)
def test_flags_are_said_as_keywords_to_who_calls_a_function(typed: str, called: str) -> None:
    assert for_python(typed) == called


@given(st.text())
def test_a_message_is_a_line_that_no_terminal_obeys(text: str) -> None:
    line = str(InputError(text))
    assert len(line) <= LONGEST
    categories = {unicodedata.category(letter) for letter in line}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert one_line(line) == line  # so that an error may be told again
    assert str(pickle.loads(pickle.dumps(InputError(text)))) == line


def test_escapes_are_seen() -> None:
    assert printable("a\x1b[31mred\x07 \u202eback\u2066 \ud800 caf\xe9 \U0001f9ec") == (
        "a\\x1b[31mred\\x07 \\u202eback\\u2066 \\ud800 caf\xe9 \U0001f9ec"
    )
    assert one_line("two\nlines\tand\r\nmore") == "two lines and more"


def test_of_a_long_message_the_fix_at_its_end_is_kept() -> None:
    line = one_line(f"{'x' * 10**6}: wrong; do {'this ' * 20}instead")
    assert len(line) == LONGEST
    assert line.startswith("xxxx")
    assert line.endswith("this instead")
    assert " … " in line


def test_names_of_a_file_reach_no_terminal(run: Cli, tmp_path: Path) -> None:
    source = tmp_path / "in\x1b]0;owned\x07\u202e.h5ad"
    source.write_text("no cells")
    told = refused(run("embed", source, "-o", tmp_path / "out.npy"))
    assert told.strip().isprintable()
    assert "in\\x1b]0;owned\\x07\\u202e.h5ad" in told


def test_what_is_logged_is_escaped_and_in_the_reader_s_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_stderr("gene \x1b[2J; use --layer counts")
    with spoken_by("the command line"):
        log_stderr("gene \x1b[2J; use --layer counts")
    assert capsys.readouterr().err == (
        'gene \\x1b[2J; use layer="counts"\ngene \\x1b[2J; use --layer counts\n'
    )


# What a caller of a function sees


def calls(path: Path) -> dict[str, Any]:
    model, data, out = str(path / "no_model"), str(path / "no.h5ad"), path / "out"
    return {
        "embed": lambda: cellscribe.embed(data),
        "embed_file": lambda: cellscribe.embed_file(data, f"{out}.npy"),
        "tokenize": lambda: cellscribe.tokenize(data, f"{out}.parquet"),
        "load": lambda: cellscribe.load(model),
        "from_pretrained": lambda: cellscribe.Embedder.from_pretrained(model),
        "info": lambda: cellscribe.info(model),
        "annotate": lambda: cellscribe.annotate(data, model=model),
        "finetune": lambda: cellscribe.finetune(model, data, out, label="x"),
        "evaluate": lambda: cellscribe.evaluate(model, data, out),
        "import_model": lambda: cellscribe.import_model(data, out),
        "open_corpus": lambda: cellscribe.open_corpus(data),
    }


@pytest.mark.parametrize("name", calls(Path()))
def test_a_caller_sees_one_frame_of_ours(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        calls(tmp_path)[name]()
    error = caught.value
    assert isinstance(error, ValueError)
    shown = traceback.format_exception(error)
    assert sum(line.lstrip().startswith("File ") for line in shown) <= 3  # two of them are here
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "--" not in str(error)


def test_the_cause_is_kept_and_all_of_it_is_shown_to_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def inner() -> None:
        try:
            {}["key"]
        except KeyError as error:
            raise InputError("no key; give --layer counts") from error

    with pytest.raises(InputError, match='give layer="counts"') as caught:
        boundary(inner)()
    assert isinstance(caught.value.cause, KeyError)
    with spoken_by("the command line"), pytest.raises(InputError, match="give --layer counts"):
        boundary(inner)()
    monkeypatch.setenv("CELLSCRIBE_DEBUG", "1")
    with pytest.raises(InputError, match="give --layer counts") as caught:
        boundary(inner)()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("name", ["x" * 254, "x" * 5000, "a\0b", "loop", "loop/x", "file/x"])
@pytest.mark.parametrize(
    "verb",
    [
        lambda path: cellscribe.info(path),
        lambda path: cellscribe.load(path),
        lambda path: cellscribe.embed(path),
        lambda path: cellscribe.open_corpus(path),
        lambda path: cellscribe.evaluate("mini", path, f"{path}.out"),
        lambda path: cellscribe.report_runs(path),
        lambda path: cellscribe.build_corpus(path, f"{path}.out"),
        lambda path: cellscribe.corpus_card(path),
        lambda path: cellscribe.import_model(path, f"{path}.out"),
        lambda path: cellscribe.export_model("mini", path),
    ],
    ids=[
        "info",
        "load",
        "embed",
        "open_corpus",
        "evaluate",
        "report",
        "build",
        "card",
        "import",
        "export",
    ],
)
def test_any_path_gets_a_line(verb: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as told:
        verb(str(tmp_path / name))
    assert len(str(told.value)) <= LONGEST
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_stopped_run_says_how_to_go_on_in_python() -> None:
    def stop() -> None:
        raise KeyboardInterrupt("the same command with --resume goes on")

    with pytest.raises(KeyboardInterrupt, match="with resume=True goes on"):
        boundary(stop)()
