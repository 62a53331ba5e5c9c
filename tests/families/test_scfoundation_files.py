"""scFoundation's files: what is read of them, what is refused, what an import keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import published_scfoundation as published
from families.published_scfoundation import load, read, relative

from cellscribe.config import ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.base import Published
from cellscribe.families.importing import import_model
from cellscribe.families.registry import open_model
from cellscribe.families.scfoundation import checkpoint
from cellscribe.families.scfoundation.network import Scfoundation
from cellscribe.families.source import Source

pytestmark = pytest.mark.usefixtures("one_thread")
MADE = np.arange(len(published.MADE_NAMES), dtype=np.int32)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write_published(tmp_path_factory.mktemp("scfoundation") / "small")


@pytest.fixture(scope="module")
def imported(small: Path) -> Published:
    return read(small)


@pytest.fixture(scope="module")
def model(imported: Published) -> Scfoundation:
    return load(imported)


@pytest.fixture
def broken(small: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, to be spoilt."""
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- the published format -------------------------------------------------------------------------


def test_what_is_read(imported: Published) -> None:
    assert imported.family == "scfoundation"
    assert imported.title.startswith("scFoundation, 2 + 2 layers, 128 wide, 500 genes, for cell")
    assert "non-commercial" in imported.licence
    assert any("non-commercial" in note for note in imported.notes)
    assert imported.table.symbols == (*published.MADE_NAMES, "<T>", "<S>", "<pad>")
    assert json.loads(json.dumps(imported.settings)) == imported.settings
    assert "cell+gene+rde.pos_emb.weight" in imported.tensors
    assert "rde.to_final.weight" in imported.tensors
    stored = {name.partition(".")[2] for name in imported.tensors}
    assert stored < set(published.shapes("small", 500))
    # Of the decoders, that for cell embeddings is not kept, nor two of the three final layers.
    owners = {name.partition(".")[0] for name in imported.tensors if "decoder." in name}
    assert owners == {"gene", "rde"}


def test_a_tensor_that_branches_share_is_stored_once_and_given_back() -> None:
    one, other, odd = torch.ones(2), torch.ones(2), torch.zeros(2)
    branches = {"cell": {"a": one}, "gene": {"a": odd, "b": one}, "rde": {"a": other, "b": one}}
    merged = checkpoint.merge(branches)
    assert set(merged) == {"cell+rde.a", "gene.a", "gene+rde.b"}
    again = checkpoint.split(merged)
    assert {branch: set(found) for branch, found in again.items()} == {
        branch: set(found) for branch, found in branches.items()
    }
    assert all(
        torch.equal(again[b][n], x) for b, found in branches.items() for n, x in found.items()
    )


def test_an_imported_folder_gives_the_same_numbers(
    small: Path, model: Scfoundation, tmp_path: Path
) -> None:
    said: list[str] = []
    directory = import_model(small, tmp_path / "imported", log=said.append)
    assert any("non-commercial" in line for line in said)
    assert "non-commercial" in (directory / "README.md").read_text()
    opened = open_model(directory)
    assert "non-commercial" in opened.header.provenance["licence"]
    stored = opened.cells
    assert isinstance(stored, Scfoundation)
    cells = stored.tokenize(published.made_cells(), MADE)
    rows = np.array([1, 2])
    # Not to the last bit: stored tensors lie elsewhere in memory.
    assert relative(stored.embed(cells, rows), model.embed(cells, rows)) < 1e-6
    ours, theirs = stored.gene_vectors(cells, rows), model.gene_vectors(cells, rows)
    assert relative(ours[1], theirs[1]) < 1e-5
    assert relative(stored.expression(cells, rows), model.expression(cells, rows)) < 1e-5


def test_branches_that_are_missing_are_said_and_refused(tmp_path: Path) -> None:
    imported = read(published.write_published(tmp_path, branches=["cell"]))
    assert "gene embeddings (gene), read-depth enhancement (rde)" in imported.notes[-1]
    model = load(imported)
    cells = model.tokenize(published.made_cells(), MADE)
    with pytest.raises(InputError, match="no branch 'gene', only cell"):
        model.gene_vectors(cells, np.array([1]))
    with pytest.raises(InputError, match="no branch 'rde', only cell"):
        load(imported, pool="rde-max")


def test_recognise(small: Path, broken: Path, tmp_path_factory: Any) -> None:
    assert checkpoint.recognise(Source(small))
    assert checkpoint.recognise(Source(small / "models.ckpt"))
    renamed = (broken / "models.ckpt").rename(broken / "mine.ckpt")
    assert checkpoint.recognise(Source(broken))
    assert read(renamed).title == read(small).title
    torch.save({"state_dict": {"encoder.weight": torch.ones(2)}}, renamed)
    assert not checkpoint.recognise(Source(broken))
    renamed.write_bytes(b"PK")
    assert not checkpoint.recognise(Source(broken))
    assert not checkpoint.recognise(Source(tmp_path_factory.mktemp("empty")))


def test_a_copy_of_the_published_repository_is_read(broken: Path, small: Path) -> None:
    (broken / "models").mkdir()
    moved = (broken / "models.ckpt").rename(broken / "models" / "models.ckpt")
    for source in (broken, broken / "models", moved):
        assert checkpoint.recognise(Source(source))
        assert read(source).title == read(small).title


def test_the_gene_list_may_lie_elsewhere(broken: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("genes") / "list.tsv"
    (broken / published.GENE_FILE).rename(elsewhere)
    with pytest.raises(InputError, match=r"no gene names.*--genes"):
        read(broken)
    assert read(broken, genes=elsewhere).table.symbols[7] == "GENE7"


# --- bad input ------------------------------------------------------------------------------------


def spoil(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = torch.load(folder / "models.ckpt")
    torch.save(change(data) or data, folder / "models.ckpt")


def in_config(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    def change(data: dict[str, Any]) -> None:
        for part in data.values():
            part["config"]["dataset_config"]["rnaseq"] |= changes

    return change


def without(part: str) -> Callable[[dict[str, Any]], Any]:
    def change(data: dict[str, Any]) -> None:
        state = data["gene"]["state_dict"]
        for name in [name for name in state if part in name]:
            del state[name]

    return change


def add(name: str, tensor: Any, branch: str = "gene") -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[branch]["state_dict"].update({name: tensor})


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / published.GENE_FILE
    path.write_text(path.read_text().replace(old, new))


ENCODER = "encoder.transformer_encoder.0."
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a file": (
        lambda d: (d / "models.ckpt").write_bytes((d / "models.ckpt").read_bytes()[:9_000]),
        "cut short",
    ),
    "a module": (
        lambda d: torch.save(torch.nn.Linear(2, 2), d / "models.ckpt"),
        r"torch\.nn\.modules\.linear\.Linear",
    ),
    "a tensor": (lambda d: torch.save(torch.ones(3), d / "models.ckpt"), "none of cell, gene, rde"),
    "a state dict": (
        lambda d: torch.save({"token_emb.mlp.weight": torch.ones(3)}, d / "models.ckpt"),
        r"none of cell, gene, rde in it \(it holds token_emb\.mlp\.weight\)",
    ),
    "no configuration": (
        lambda d: spoil(d, lambda s: s["rde"].pop("config") and s),
        "branch rde: its configuration lacks 'config'",
    ),
    "no state": (
        lambda d: spoil(d, lambda s: s["cell"].pop("state_dict") and s),
        "branch cell: no state_dict",
    ),
    "another model": (
        lambda d: spoil(
            d, in_config(encoder=published.SHAPES["small"]["encoder"] | {"module_type": "gau"})
        ),
        "a model mae_autobin of gau and performer",
    ),
    "branches of two shapes": (
        lambda d: spoil(
            d,
            lambda s: s["rde"]["config"]["dataset_config"]["rnaseq"].update(bin_num=11),
        ),
        "branches cell and rde differ in shape",
    ),
    "odd bins": (lambda d: spoil(d, in_config(bin_num=1.5)), "bins must be a whole number"),
    "more bins": (
        lambda d: spoil(d, in_config(bin_num=13)),
        r"token_emb\.mlp\.weight has shape \[12, 1\] where the configuration asks for \[13, 1\]",
    ),
    "no attention": (
        lambda d: spoil(d, without("0.self_attn.in_proj")),
        f"branch gene: lacks {ENCODER}self_attn.in_proj_weight, {ENCODER}self_attn.in_proj_bias ",
    ),
    "no decoder": (
        lambda d: spoil(d, without("decoder.performer")),
        r"branch gene: lacks decoder\.performer\.net\S+ (\S+ ){4}\(34 tensors in all\)",
    ),
    "a tensor too many": (
        lambda d: spoil(d, add("model.extra.weight", torch.ones(2))),
        r"branch gene: also holds extra\.weight ",
    ),
    "no tensor": (
        lambda d: spoil(d, add("model.norm.weight", 3, "rde")),
        r"branch rde: model\.norm\.weight is no tensor",
    ),
    "no list": (lambda d: (d / published.GENE_FILE).unlink(), "no gene names"),
    "a shorter list": (lambda d: rewrite(d, "\nGENE499\t499", ""), "499 genes.* places for 500"),
    "a list out of order": (
        lambda d: rewrite(d, "GENE7\t7\n", "GENE7\t8\n"),
        "line 9: expected a gene symbol, a tab and 7",
    ),
    "a list of names": (lambda d: rewrite(d, "\t", " "), "line 2: expected a gene symbol"),
    "a gene twice": (lambda d: rewrite(d, "GENE7\t", "GENE6\t"), "stands twice"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_bad_input_gives_one_line(broken: Path, case: str) -> None:
    change, message = WRONG[case]
    change(broken)
    with pytest.raises(InputError, match=message) as caught:
        read(broken)
    assert "\n" not in str(caught.value)


def test_a_stored_model_that_does_not_fit_is_refused(imported: Published) -> None:
    other = checkpoint.symbol_table(published.MADE_NAMES)
    with pytest.raises(InputError, match=r"500 rows, .* asks for 503"):
        checkpoint.load(imported.settings, imported.tensors, other, ModelOptions())
    with pytest.raises(InputError, match="no branch 'cell'"):
        checkpoint.load(imported.settings, {}, imported.table, ModelOptions())
    fewer = {name: x for name, x in imported.tensors.items() if "pos_emb" not in name}
    with pytest.raises(InputError, match=r"branch cell: lacks pos_emb\.weight"):
        checkpoint.load(imported.settings, fewer, imported.table, ModelOptions())
    with pytest.raises(InputError, match="unknown key 'layers'"):
        checkpoint.load(
            imported.settings | {"layers": 3}, imported.tensors, imported.table, ModelOptions()
        )
