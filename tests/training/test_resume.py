"""A run that was stopped goes on as if it had never been, whatever stopped it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.training import DROPPING, lines_of, planted_corpus, run_training

from cellscribe.errors import InputError
from cellscribe.training import checkpoints as checkpoints
from cellscribe.writing import OutputError, hash_of

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    run_training(corpus, run, shape=DROPPING)
    return run


def same_end(run: Path, whole: Path) -> None:
    """The same trace, weights and averages, bit for bit."""
    assert lines_of(run) == lines_of(whole)
    names = ("checkpoints/000014/model/model.safetensors", "checkpoints/000014/state.safetensors")
    for name in (*names, "model/model.safetensors"):
        ours, theirs = load_file(run / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert not list(run.rglob("*.partial-*"))


class Stop(Exception):
    """As if the machine had gone away."""


def stop_at(step: int) -> Any:
    def on_step(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise Stop

    return on_step


@pytest.mark.parametrize("step", [3, 5, 10, 13])
def test_resumed_is_bit_for_bit_the_same(
    corpus: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        run_training(corpus, run, shape=DROPPING, on_step=stop_at(step))
    assert len(lines_of(run)) == step
    said: list[str] = []
    run_training(corpus, run, shape=DROPPING, resume=True, log=said.append)
    same_end(run, whole)
    # the line of a step comes before its checkpoint
    behind = (step - 1) // 5 * 5
    assert any(f"after step {behind}" in line for line in said) == (behind > 0)
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [session["step"] for session in sessions] == [0, behind]


def test_a_signal_saves_and_the_run_goes_on(corpus: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]

    def on_step(line: dict[str, Any]) -> None:
        if line["step"] in (2, 7):
            os.kill(os.getpid(), signal.SIGTERM if line["step"] == 2 else signal.SIGINT)

    for step in (3, 8):
        said: list[str] = []
        done = run_training(
            corpus, run, shape=DROPPING, on_step=on_step, resume=True, log=said.append
        )
        assert done is None
        assert (run / f"checkpoints/{step:06}").is_dir()
        assert said[-1] == f"Stopped and saved at step {step}; --resume goes on from there."
        assert [signal.getsignal(k) for k in (signal.SIGINT, signal.SIGTERM)] == handlers
    run_training(corpus, run, shape=DROPPING, resume=True)
    same_end(run, whole)


def test_an_early_end_can_be_moved(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """--steps ends a run early and leaves the schedule as it is."""
    run = tmp_path / "run"
    run_training(corpus, run, shape=DROPPING, steps=10)
    assert len(lines_of(run)) == 10
    run_training(corpus, run, shape=DROPPING, resume=True)
    same_end(run, whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no state", "no weights"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    corpus: Path, whole: Path, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        run_training(corpus, run, shape=DROPPING, on_step=stop_at(12))
    newest = run / "checkpoints/000010"
    weights = newest / "model/model.safetensors"
    if damage == "cut":
        os.truncate(newest / "state.safetensors", 1000)
    elif damage == "flipped":
        raw = bytearray(weights.read_bytes())
        raw[-5] ^= 1
        weights.write_bytes(raw)
    else:
        (newest / "state.json" if damage == "no state" else weights).unlink()
    said: list[str] = []
    run_training(corpus, run, shape=DROPPING, resume=True, log=said.append)
    assert any(line.startswith("Checkpoint 000010 is damaged") for line in said)
    assert any("after step 5" in line for line in said)
    same_end(run, whole)


def test_no_sound_checkpoint_is_refused(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        run_training(corpus, run, on_step=stop_at(7))
    (run / "checkpoints/000005/state.json").write_text("{")
    before = hash_of(run)
    with pytest.raises(InputError, match="no checkpoint that is sound"):
        run_training(corpus, run, resume=True)
    assert hash_of(run) == before


def test_a_full_disk_leaves_older_checkpoints(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = tmp_path / "run", checkpoints.save_file

    def full(tensors: Any, path: Path, **more: Any) -> None:
        if "000010" in str(path):
            raise OSError(28, "No space left on device")
        before(tensors, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(
            OutputError, match=r"000010 cannot be written: the disk is full.*--resume"
        ):
            run_training(corpus, run, shape=DROPPING)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000005"]
    run_training(corpus, run, shape=DROPPING, resume=True)
    same_end(run, whole)


def test_the_newest_and_the_best_are_kept(corpus: Path, tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7, 2.8])

    from cellscribe.training.validation import Validation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "losses", lambda self, *rest: {"val": next(losses)})
        run = tmp_path / "run"
        model = run_training(corpus, run, validate_every=2, checkpoint_every=1, keep=2)
    kept = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert kept == [4, 13, 14]
    best, told = (
        load_file(p / "model.safetensors") for p in (run / "checkpoints/000004/model", model)
    )
    assert all(torch.equal(best[key], told[key]) for key in best)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 2e-3}, "began with training learning_rate 0.001, and not 0.002"),
        ({"seed": 1}, "began with training seed 0, and not 1"),
    ],
)
def test_another_run_is_refused(
    corpus: Path, whole: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = hash_of(run)
    with pytest.raises(InputError, match=told):
        run_training(corpus, run, shape=DROPPING, resume=True, **changes)
    with pytest.raises(InputError, match="began with model hidden_size 32, and not 64"):
        run_training(corpus, run, shape=replace(DROPPING, hidden_size=64), resume=True)
    other = planted_corpus(tmp_path / "other", train=[300], val=[40])
    with pytest.raises(InputError, match="began with corpus hash"):
        run_training(other, run, shape=DROPPING, resume=True)
    with pytest.raises(InputError, match=r"holds a run.*--resume"):
        run_training(corpus, run, shape=DROPPING)
    assert hash_of(run) == before


def test_killed_at_any_moment(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL again and again, most often in a save, as every step makes one."""
    run = tmp_path / "run"
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", KILLED, str(corpus), str(run), str(TESTS)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.12))
        process.kill()
        process.wait()
        process.stdout.close()
        if line.strip() == "done":
            break
    run_training(corpus, run, shape=DROPPING, resume=True, checkpoint_every=1)
    assert lines_of(run) == lines_of(whole)
    ours, theirs = (load_file(path / "model/model.safetensors") for path in (run, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list((run / "checkpoints").glob(".*"))


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from support.training import DROPPING, run_training
first = []
def on_step(line):
    if not first:
        first.append(line)
        print("begun", flush=True)
if run_training(Path(sys.argv[1]), Path(sys.argv[2]), shape=DROPPING, resume=True,
                checkpoint_every=1, on_step=on_step):
    print("done", flush=True)
"""
