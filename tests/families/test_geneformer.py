"""Geneformer V1 and V2: tokens and vectors as its own tools give them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.published_geneformer import (
    FULL,
    N_GENES,
    SPECIALS,
    small_dictionaries,
    write_published,
)
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelConfig, ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.geneformer import checkpoint
from cellscribe.families.importing import import_model
from cellscribe.families.registry import Opened, open_model
from cellscribe.families.source import Source
from cellscribe.model.encoder import MaskedGeneModel, count_parameters

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "geneformer.json").read_text())
VERSIONS = ("V1", "V2")
pytestmark = pytest.mark.usefixtures("one_thread")
MODES = {
    "cell -1": ModelOptions(pool="genes", hidden_layer=-2),
    "cell 0": ModelOptions(pool="genes", hidden_layer=-1),
    "cls -1": ModelOptions(pool="cls", hidden_layer=-2),
    "cls 0": ModelOptions(pool="cls", hidden_layer=-1),
}
"""Geneformer's emb_mode and emb_layer in our words."""


def bring_in(published: Path, out: Path) -> Path:
    return import_model(published, out, log=lambda line: None)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def small(version: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small published model with small dictionaries, and its import."""
    root = tmp_path_factory.mktemp(f"small-{version}")
    published = write_published(root, version, sizes={"positions": 48})
    return published, bring_in(published, root / "ours")


@pytest.fixture(scope="module")
def real(version: str, shared_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import of the small model with the published dictionaries."""
    root = tmp_path_factory.mktemp(f"real-{version}")
    return bring_in(write_published(root, version, dictionaries=shared_genes), root / "ours")


def golden_cells(model: Opened, data: Path) -> dict[str, CellTokens]:
    """Our tokens of a golden's cells."""
    import anndata

    found: dict[str, CellTokens] = {}
    for file in dict.fromkeys(key.split()[0] for key in GOLDEN["V1"]["tokens"]):
        keys = [key for key in GOLDEN["V1"]["tokens"] if key.startswith(file)]
        cells = anndata.read_h5ad(data / file, backed="r")
        genes = model.header.map_genes(cells.var, gene_key="ensembl_id", name=file)
        for key in keys:
            counts = csr_matrix(cells.X[[int(key.split()[1])]])
            found[key] = model.cells.tokenize(counts, genes.token)
        cells.file.close()
    return found


@pytest.fixture(scope="module")
def tokens(real: Path, shared_data: Path) -> dict[str, CellTokens]:
    return golden_cells(open_model(real), shared_data)


def vector(model: Opened, cells: CellTokens) -> np.ndarray:
    with torch.inference_mode():
        return model.cells.embed(cells, np.array([0])).numpy()[0]


def specials(version: str) -> tuple[list[int], list[int]]:
    return ([2], [3]) if version == "V2" else ([], [])


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_tokens_of_real_cells_are_the_references(
    version: str, tokens: dict[str, CellTokens]
) -> None:
    front, back = specials(version)
    for key, wanted in GOLDEN[version]["tokens"].items():
        ours = [*front, *map(int, tokens[key].tokens), *back]
        assert len(ours) == wanted["n"]
        assert ours[: len(wanted["first"])] == wanted["first"]
        digest = hashlib.sha256(np.array(ours, "<u2").tobytes()).hexdigest()
        assert digest == wanted["sha256"], key


def test_vectors_of_real_cells_are_the_references(
    version: str, real: Path, tokens: dict[str, CellTokens]
) -> None:
    for mode, wanted in GOLDEN[version]["small"].items():
        model = open_model(real, MODES[mode])
        for key, values in wanted.items():
            assert relative(vector(model, tokens[key]), np.array(values)) < 1e-4, (mode, key)


def test_the_published_way_of_pooling_is_the_default(
    version: str, real: Path, tokens: dict[str, CellTokens]
) -> None:
    mode = "cls -1" if version == "V2" else "cell -1"
    key, values = next(iter(GOLDEN[version]["small"][mode].items()))
    assert relative(vector(open_model(real), tokens[key]), np.array(values)) < 1e-4


def test_embedding_a_file_gives_the_references_vectors(
    version: str, real: Path, shared_data: Path
) -> None:
    import anndata

    from cellscribe.inference.embedder import load

    mode = "cls -1" if version == "V2" else "cell -1"
    wanted = {
        int(key.split()[1]): values
        for key, values in GOLDEN[version]["small"][mode].items()
        if key.startswith("pbmc3k")
    }
    cells = anndata.read_h5ad(shared_data / "pbmc3k_10x.h5ad", backed="r")[list(wanted)]
    model = load(real, device="cpu", precision="float32", threads=1)
    found = model.embed(cells.to_memory())
    assert relative(found, np.array(list(wanted.values()))) < 1e-4


@pytest.mark.slow
def test_full_size_gives_the_references_vectors(
    version: str, shared_genes: Path, tokens: dict[str, CellTokens], tmp_path: Path
) -> None:
    published = write_published(tmp_path, version, size="full", dictionaries=shared_genes)
    ours = bring_in(published, tmp_path / "ours")
    assert GOLDEN[version]["full"]
    for mode, wanted in GOLDEN[version]["full"].items():
        model = open_model(ours, MODES[mode])
        for key, values in wanted.items():
            found = vector(model, tokens[key])[: len(values)]
            assert relative(found, np.array(values)) < 1e-4, (mode, key)


@pytest.mark.parametrize(
    ("shape", "vocab", "parameters"),
    [
        (FULL["V1"], 25_426, 10_288_722),
        (
            {"width": 512, "layers": 12, "heads": 8, "ffn": 1024, "positions": 2048},
            25_426,
            39_591_250,
        ),
        (FULL["V2"], 20_275, 104_386_867),
        (
            {"width": 1152, "layers": 18, "heads": 18, "ffn": 4608, "positions": 4096},
            20_275,
            316_354_867,
        ),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(
    shape: dict[str, int], vocab: int, parameters: int
) -> None:
    config = ModelConfig(
        vocab_size=vocab,
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["ffn"],
        max_position_embeddings=shape["positions"],
        cls_token=False,
        pad_token_id=0,
    )
    with torch.device("meta"):
        assert count_parameters(MaskedGeneModel(config)) == parameters


def some_cells(model: Opened, version: str) -> Any:
    """Tokens of cells with 1 to more genes than the context."""
    rng = np.random.default_rng(0)
    n_special = len(SPECIALS[version])
    dense = rng.poisson(0.8, (7, N_GENES))
    dense[0] = 0
    dense[0, 5] = 3
    dense[1] = 1 + rng.poisson(2, N_GENES)
    columns = np.arange(n_special, n_special + N_GENES, dtype=np.int32)
    return model.cells.tokenize(csr_matrix(dense), columns)


@pytest.mark.parametrize("mode", MODES)
def test_vectors_are_those_of_transformers(
    version: str, small: tuple[Path, Path], mode: str
) -> None:
    from transformers import BertModel

    published, ours = small
    if version == "V1" and mode.startswith("cls"):
        with pytest.raises(InputError, match=r"reads no \[CLS\]"):
            open_model(ours, MODES[mode])
        return
    model = open_model(ours, MODES[mode])
    cells = some_cells(model, version)
    front, back = specials(version)
    rows = [
        [*front, *map(int, cells.tokens[cells.offsets[i] : cells.offsets[i + 1]]), *back]
        for i in range(7)
    ]
    lengths = torch.tensor([len(row) for row in rows])
    assert int(lengths.max()) == 48
    padded = torch.zeros(len(rows), 48, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    bert = BertModel.from_pretrained(published, add_pooling_layer=False).eval()
    layer = model.cells.network.config.num_hidden_layers + (MODES[mode].hidden_layer or 0) + 1
    with torch.inference_mode():
        mask = (torch.arange(48) < lengths[:, None]).long()
        hidden = bert(padded, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
        found = model.cells.embed(cells, np.arange(7)).numpy()
    wanted = [
        hidden[i, 0] if mode.startswith("cls") else hidden[i, len(front) : n - len(back)].mean(0)
        for i, n in enumerate(lengths.tolist())
    ]
    assert relative(found, torch.stack(wanted).numpy()) < 1e-5


def test_a_cell_does_not_depend_on_its_neighbours(version: str, small: tuple[Path, Path]) -> None:
    model = open_model(small[1])
    cells = some_cells(model, version)
    with torch.inference_mode():
        together = model.cells.embed(cells, np.arange(7)).numpy()
        alone = [model.cells.embed(cells, np.array([row])).numpy()[0] for row in range(7)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_long_cells_are_cut_to_the_context_and_its_special_tokens(version: str, real: Path) -> None:
    model = open_model(real)
    n_special = len(SPECIALS[version])
    columns = np.arange(n_special, n_special + 5_000, dtype=np.int32)
    cells = model.cells.tokenize(csr_matrix(np.ones((1, 5_000), np.int64)), columns)
    assert cells.lengths.tolist() == [4_094 if version == "V2" else 2_048]
    assert model.cells.places(cells).tolist() == [4_096 if version == "V2" else 2_048]


def test_weights_and_gene_table_pass_unchanged(version: str, small: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file

    published, ours = small
    theirs, mine = (load_file(folder / "model.safetensors") for folder in (published, ours))
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)
    made = small_dictionaries(version)
    table = Vocabulary.read(ours / "genes.tsv")
    assert table.token_of == made["token_dictionary"]
    assert table.medians[-1] == made["gene_median_dictionary"][table.ids[-1]]
    assert (ours / "gene_ids.tsv").is_file()
    assert open_model(ours).header.table.synonyms == table.synonyms
    assert checkpoint.recognise(Source(published))
    assert checkpoint.recognise(Source(published / "model.safetensors"))


def test_what_belongs_to_others_is_not_recognised(small: tuple[Path, Path], tmp_path: Path) -> None:
    published, ours = small
    assert not checkpoint.recognise(Source(ours))
    assert not checkpoint.recognise(Source(published.parent))
    (tmp_path / "model.safetensors").touch()
    assert not checkpoint.recognise(Source(tmp_path))
    config = json.loads((published / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_te_layers": True}))
    assert not checkpoint.recognise(Source(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint.recognise(Source(tmp_path))


def test_early_files_of_weights_are_read(version: str, tmp_path: Path) -> None:
    new = write_published(tmp_path / "new", version, sizes={"positions": 48})
    old = write_published(tmp_path / "old", version, sizes={"positions": 48}, bin_file=True)
    weights = torch.load(old / "pytorch_model.bin", weights_only=True)
    early = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in weights.items()
    }
    torch.save(early, old / "pytorch_model.bin")
    hashes = [open_model(bring_in(f, f.parent / "ours")).hash for f in (new, old)]
    assert hashes[0] == hashes[1]


def test_of_a_classifier_the_encoder_is_that_of_the_whole_model(tmp_path: Path) -> None:
    """Its classifier: `test_classifiers`."""
    whole = write_published(tmp_path / "whole", "V1", sizes={"positions": 48})
    tuned = write_published(tmp_path / "tuned", "V1", sizes={"positions": 48}, classes=3)
    said: list[str] = []
    ours = import_model(tuned, tmp_path / "ours", log=said.append)
    assert any("no masked-gene head" in line for line in said)
    assert any("those that its classifier reads" in line for line in said)
    assert "no masked-gene head" in (ours / "README.md").read_text()
    reference = open_model(bring_in(whole, tmp_path / "reference"))
    same = open_model(ours, ModelOptions(pool="genes", hidden_layer=-2))
    cells = some_cells(reference, "V1")
    with torch.inference_mode():
        vectors = [m.cells.embed(cells, np.arange(7)) for m in (reference, same)]
    assert torch.equal(*vectors)
