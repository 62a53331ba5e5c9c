"""Checkpoints of a run that lie: each is passed over in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import real_genes

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training import checkpoints
from cellscribe.writing import hash_of

CONFIG = ModelConfig(
    vocab_size=25, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=12, context=8,
)  # fmt: skip
STATE = {
    "step": 7, "reader": {"epoch": 0, "batch": 3}, "seconds": 1.5, "skipped": 0, "bad_in_row": 0,
    "best_step": None, "best_loss": None, "since_best": 0, "scale": {},
}  # fmt: skip


def network() -> MaskedGeneModel:
    model = MaskedGeneModel(CONFIG)
    initialise(model, 0)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("run") / "checkpoints", network()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    averages = {
        f"{key}.{name}": torch.tensor(7.0) if key == "step" else torch.ones_like(p)
        for name, p in weights.items()
        for key in checkpoints.AVERAGES
    }
    ids, symbols = real_genes(20)
    vocabulary = Vocabulary.build(ids, symbols, torch.arange(1.0, 21.0).numpy())
    checkpoints.save(folder, weights, averages, STATE, model, vocabulary)
    return folder


def read(folder: Path) -> tuple[Any, list[str]]:
    said: list[str] = []
    try:
        return checkpoints.newest(folder, network(), said.append), said
    except InputError as error:
        assert "no checkpoint that is sound" in str(error)
        return None, said


def test_a_sound_one_is_read(saved: Path) -> None:
    found, said = read(saved)
    assert found is not None
    assert found[0]["step"] == 7
    assert not said


def edit_averages(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change the averages, and let the record have their hash."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "state.safetensors")
        edit(tensors)
        save_file(tensors, folder / "state.safetensors")
        state = json.loads((folder / "state.json").read_text())
        state["hashes"]["state.safetensors"] = hash_of(folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps(state))

    return change


def edit_state(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(state | changes))

    return change


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another step": (edit_state(step=8), "state.json is of step 8"),
    "text": (edit_state(step="7"), "step must be a whole number, not '7'"),
    "no hashes": (edit_state(hashes={}), "hashes.model/model.safetensors is missing"),
    "no table": (lambda f: (f / "state.json").write_text("[]"), "not a table"),
    "cut": (lambda f: (f / "state.json").write_text("{"), "damaged JSON"),
    "NaN": (
        edit_averages(lambda t: t["exp_avg.bias"].fill_(float("nan"))),
        "25 of 25 values of exp_avg.bias are not finite",
    ),
    "shape": (edit_averages(lambda t: t.update({"exp_avg.bias": torch.ones(3)})), "do not fit"),
    "one less": (edit_averages(lambda t: t.pop("exp_avg.bias")), "lacks averages of bias"),
    "one more": (edit_averages(lambda t: t.update(x=torch.ones(1))), "has x, which is none"),
    "flags": (
        edit_averages(lambda t: t.update({"exp_avg.bias": torch.ones(25, dtype=torch.bool)})),
        "exp_avg.bias is of type BOOL",
    ),
    "folder": (
        lambda f: (f / "state.safetensors").unlink() or (f / "state.safetensors").mkdir(),
        "it is a folder",
    ),
    "loop": (
        lambda f: (f / "state.json").unlink() or (f / "state.json").symlink_to("state.json"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_lies_are_passed_over_and_named(name: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "checkpoints"))
    harm, told = HARMS[name]
    harm(folder / "000007")
    found, said = read(folder)
    assert found is None
    assert len(said) == 1
    assert said[0].startswith("Checkpoint 000007 is damaged (")
    assert told in said[0]


def test_folders_with_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("²", "٣", "1" * 40, "x", "7 "):
        (tmp_path / name).mkdir()
    (tmp_path / "12").mkdir()
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["12"]
