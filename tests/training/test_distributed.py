"""Several processes train as one does: the command line under torchrun, with gloo."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.command import Cli, refused
from support.training import DROPPING, SHAPE, SHORT, lines_of, planted_corpus, run_training

from cellscribe import training
from cellscribe.config import BuildOptions, ModelConfig, SplitOptions
from cellscribe.corpus.build.build import build_corpus

pytestmark = pytest.mark.usefixtures("one_thread")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    run_training(corpus, run)
    return run


@pytest.fixture
def cli(run: Cli) -> Cli:
    """The command line in this process; ``run`` is a folder in these tests."""
    return run


def preset(folder: Path, shape: ModelConfig = SHAPE, **changes: Any) -> Path:
    """A TOML file that says what `run_training` does."""
    tables = {
        "model": dataclasses.asdict(shape),
        "training": {**dataclasses.asdict(SHORT), **changes},
    }
    text = ""
    for name, table in tables.items():
        text += f"[{name}]\n"
        text += "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items() if v is not None)
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def start(corpus: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    command = [*TORCHRUN, "-m", "cellscribe", "train", "--corpus", str(corpus), "-o", str(run)]
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def near(run: Path, alone: Path) -> None:
    ours, theirs = lines_of(run), lines_of(alone)
    for name in ("loss", "gradient_norm", "tokens", "loss_val", "loss_test_unseen"):
        np.testing.assert_allclose(
            [line[name] for line in ours if name in line],
            [line[name] for line in theirs if name in line],
            rtol=1e-6,
        )
    got, wanted = (load_file(path / "model/model.safetensors") for path in (run, alone))
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one(corpus: Path, alone: Path, tmp_path: Path, parallel: str) -> None:
    recipe = preset(tmp_path, parallel=parallel, micro_batch=4)
    run = tmp_path / "run"
    out, err = finish(start(corpus, run, "--preset", str(recipe)))
    assert out.split() == [str(run / "model")]
    assert err.count("cells a step") == 1
    near(run, alone)
    session = json.loads((run / "run.json").read_text())["sessions"][0]
    assert (session["ranks"], session["accumulation"]) == (2, 2)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one_for_two_views(tmp_path: Path, parallel: str) -> None:
    """Each rank's cells are negatives for the other's, and micro batches change nothing."""
    sample = Path(training.__file__).parents[1] / "bundled/pbmc3k_sample.h5ad"
    build = BuildOptions(genes=1_500)
    quiet: Any = lambda line: None
    corpus = build_corpus([sample], tmp_path / "c", build, SplitOptions(holdout=0), log=quiet).path
    shape = dataclasses.replace(SHAPE, cell_vector_size=8, cell_scores=8)
    on = {"regression_weight": 1.0, "contrast_weight": 0.5, "schedule_steps": 6, "warmup_steps": 1}
    alone, run = tmp_path / "alone", tmp_path / "run"
    options = dataclasses.replace(SHORT, **on)
    run_training(corpus, alone, shape=shape, options=options, micro_batch=16)
    recipe = preset(tmp_path, shape, parallel=parallel, micro_batch=4, **on)
    finish(start(corpus, run, "--preset", str(recipe)))
    ours, theirs = lines_of(run), lines_of(alone)
    for name in ("loss", "regression", "contrast", "gradient_norm"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5
        )


# A checkpoint of DDP is that of one process with another count of ranks; the tests of DDP in this
# file compare both what it ends with and what it goes on from.
SLOW_DDP = pytest.param("ddp", 1, marks=pytest.mark.slow)
# Parameters come out of shards in every checkpoint, and go into them in the one that is left.
SLOW_FSDP = pytest.param("fsdp", 1, marks=pytest.mark.slow)


@pytest.mark.parametrize(("first", "then"), [SLOW_FSDP, SLOW_DDP, (1, "fsdp")])
def test_a_checkpoint_of_n_ranks_goes_on_with_m(
    cli: Cli, corpus: Path, alone: Path, tmp_path: Path, first: Any, then: Any
) -> None:
    run = tmp_path / "run"
    for ranks, more in ((first, ["--steps", "7"]), (then, [])):
        recipe = preset(tmp_path, parallel="ddp" if ranks == 1 else ranks)
        words = ["--preset", str(recipe), "--resume", *more]
        if ranks == 1:
            ran = cli("train", "--corpus", corpus, "-o", run, *words)
            assert ran.status == 0, ran.err
        else:
            finish(start(corpus, run, *words))
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [s["ranks"] for s in sessions] == [1 if r == 1 else 2 for r in (first, then)]
    # the early end had a validation of its own
    ours = [line["loss"] for line in lines_of(run)]
    np.testing.assert_allclose(ours, [line["loss"] for line in lines_of(alone)], rtol=1e-6)


def test_two_ranks_resume_bit_for_bit_and_stop_together(corpus: Path, tmp_path: Path) -> None:
    """With dropout; first SIGKILL to both, then a rank alone, then SIGTERM to torchrun."""
    recipe = preset(tmp_path, DROPPING, checkpoint_every=1, schedule_steps=40, validate_every=40)
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(start(corpus, whole, "--preset", str(recipe)))
    for kind in ("all", "one", "term"):
        process = start(corpus, run, "--preset", str(recipe), "--resume")
        before = len(steps_of(run))
        wait_for(lambda before=before: len(steps_of(run)) >= before + 4, process)
        ranks = children(process.pid)
        assert len(ranks) == 2
        if kind == "term":
            process.send_signal(signal.SIGTERM)
        else:
            for rank in ranks if kind == "all" else ranks[1:]:
                os.kill(rank, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode != 0  # torchrun's own
        assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        assert len(steps_of(run)) < 40
    finish(start(corpus, run, "--preset", str(recipe), "--resume"))
    assert lines_of(run) == lines_of(whole)
    ours, theirs = (load_file(path / "model/model.safetensors") for path in (run, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def steps_of(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    # torchrun has helpers of its own that are no Python of ours
    return [
        int(child)
        for child in text.split()
        if b"cellscribe" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


UNSHARED = [
    ({"micro_batch": 16}, "global_batch 16 is not a multiple of micro_batch 16 x 2 ranks"),
    ({"lanes": 3}, "2 ranks cannot share 3 lanes evenly"),
]


@pytest.mark.parametrize(("changes", "message"), UNSHARED)
def test_what_ranks_cannot_share_is_refused(
    cli: Cli,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    """In one process that takes itself for one of two: all ranks refuse before they meet."""
    here = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "nowhere", "MASTER_PORT": 1}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))
    recipe = preset(tmp_path, **changes)
    ran = cli("train", "--corpus", corpus, "-o", tmp_path / "run", "--preset", recipe)
    assert message in refused(ran)
    assert not (tmp_path / "run").exists()


def test_a_refusal_comes_through_torchrun(corpus: Path, tmp_path: Path) -> None:
    changes, message = UNSHARED[0]
    process = start(corpus, tmp_path / "run", "--preset", str(preset(tmp_path, **changes)))
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"cellscribe: {message}" in err
