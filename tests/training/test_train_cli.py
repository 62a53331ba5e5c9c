"""``cellscribe train`` as one types it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.command import Cli, nothing_new, refused
from support.training import planted_corpus

from cellscribe.lease import lease
from cellscribe.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = """
[model]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 64
context = 40

[training]
schedule_steps = 6
global_batch = 8
micro_batch = 8
warmup_steps = 1
validation_cells = 16
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_preset_lies_under_a_file_under_flags(
    run: Cli, corpus: Path, preset: Path, tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        "[train]\nglobal_batch = 16\nlearning_rate = 2e-3\n[train.model]\ncontext = 9\n"
    )
    words = ["--preset", preset, "--corpus", corpus, "-o", tmp_path / "run"]
    ran = run("--config", config, "train", *words, "--learning-rate", "3e-3", "--seed", 5)
    assert ran.status == 0
    assert ran.out.split() == [str(tmp_path / "run/model")]
    header = json.loads((tmp_path / "run/run.json").read_text())
    told = header["training"]
    assert (told["schedule_steps"], told["global_batch"], told["learning_rate"]) == (6, 16, 3e-3)
    assert told["seed"] == 5
    assert header["model"]["hidden_size"] == 32
    assert header["model"]["context"] == 9
    assert header["preset"] == "tiny"
    assert "16 cells a step: 8 at a time x 1 rank x 2" in ran.err
    assert "step 6 of 6: loss " in ran.err
    assert "val " in ran.err
    model = load_checkpoint(tmp_path / "run/model")
    assert model.config.hidden_size == 32
    assert (tmp_path / "run/model/README.md").read_text().startswith("---\n")
    # and the model is one to embed with
    assert run("info", tmp_path / "run/model").status == 0


def test_the_shape_of_init_from_takes_the_presets_place(
    run: Cli, corpus: Path, preset: Path, tmp_path: Path
) -> None:
    words = ["--corpus", corpus, "--steps", 2]
    first = run("train", "--preset", preset, *words, "-o", tmp_path / "first")
    assert first.status == 0, first.err
    wide = tmp_path / "wide.toml"
    wide.write_text(TINY.replace("hidden_size = 32", "hidden_size = 64"))
    again = run(
        "train", "--preset", wide, *words, "--init-from", tmp_path / "first/model",
        "-o", tmp_path / "second",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert load_checkpoint(tmp_path / "second/model").config.hidden_size == 32


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "geneformer-11m"], "no preset 'geneformer-11m'; there are geneformer-106m"),
        (["--preset", "nowhere.toml"], "nowhere.toml: no such file"),
        (["--corpus", "nowhere"], "nowhere holds no corpus"),
        (["--micro-batch", "3"], "global_batch 8 is not a multiple of micro_batch 3"),
        (["--steps", "9"], "steps 9 lie beyond schedule_steps 6"),
        (["--init-from", "nothing"], "no model 'nothing'"),
        (["--device", "cuda"], "no CUDA device"),
        (["--learning-rte", "1"], "--learning-rte"),
        (["-o", "nowhere/run"], "nowhere: no such folder"),
        (["--model.hidden-size", "33"], "hidden_size 33 is not a multiple"),
    ],
)
def test_refusals(
    run: Cli,
    corpus: Path,
    preset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--preset": str(preset), "--corpus": str(corpus), "-o": "run"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    line = refused(run("train", *[word for pair in given.items() for word in pair]))
    assert told in line
    nothing_new(tmp_path, "tiny.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TINY.replace("warmup_steps", "warm_up_steps"), "unknown key 'warm_up_steps'"),
        (TINY.replace("context", "contxt"), "unknown key 'contxt'"),
        (TINY.replace("[training]", "[trainer]"), "unknown table 'trainer'"),
        ("[model", "not valid TOML"),
    ],
)
def test_a_bad_preset_is_refused(
    run: Cli, corpus: Path, preset: Path, tmp_path: Path, text: str, told: str
) -> None:
    preset.write_text(text)
    ran = run("train", "--preset", preset, "--corpus", corpus, "-o", tmp_path / "run")
    assert told in refused(ran)
    nothing_new(tmp_path, "tiny.toml")


def test_a_corpus_without_training_cells_or_with_a_shard_gone(
    run: Cli, preset: Path, tmp_path: Path
) -> None:
    empty = planted_corpus(tmp_path / "empty", val=[20])
    words = ["train", "--preset", preset, "-o", tmp_path / "run"]
    assert "no split 'train'" in refused(run(*words, "--corpus", empty))
    broken = planted_corpus(tmp_path / "broken")
    (broken / "tokens/train/00001.parquet").unlink()
    assert "00001.parquet" in refused(run(*words, "--corpus", broken))
    nothing_new(tmp_path, "tiny.toml", "empty", "broken")


def test_a_folder_in_use_is_refused(run: Cli, corpus: Path, preset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    words = ["train", "--preset", preset, "--corpus", corpus, "-o", tmp_path / "run"]
    with lease(tmp_path / "run"):
        told = refused(run(*words))
        assert f"is being written by another process (host {socket.gethostname()}, pid" in told
    assert run(*words).status == 0
