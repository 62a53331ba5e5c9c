"""A mouse file gives the vectors of its human orthologues, and says what is lost."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.tiny import N_GENES, real_genes, some_counts

from cellscribe.api.embed import embed_file
from cellscribe.cells.gene_names.orthologues import orthologues
from cellscribe.config import EmbedOptions
from cellscribe.errors import InputError


def write(path: Path, names: list[str], counts: np.ndarray) -> Path:
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(counts))])
    cells = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))
    cells.write_h5ad(path)
    return path


def test_a_mouse_file_is_read_as_its_orthologues(tmp_path: Path, tiny_model: Path) -> None:
    mouse_of = {human: mouse for mouse, human in orthologues().human_of.items()}
    symbol_of = {gene: symbol for symbol, gene in orthologues().genes.items()}
    ids = real_genes(N_GENES)[0]
    shared = [i for i, gene in enumerate(ids) if gene in mouse_of]
    counts = some_counts(6)[:, shared]
    genes = [mouse_of[ids[i]] for i in shared]
    assert len(shared) > N_GENES / 2
    lost = np.full((6, 2), 7)
    mouse = write(
        tmp_path / "mouse.h5ad",
        [*(symbol_of.get(gene, gene) for gene in genes), "Gapdh", "H2-K1"],
        np.hstack([counts, lost]),
    )
    human = write(tmp_path / "human.h5ad", [ids[i] for i in shared], counts)

    def embed(source: Path, **options: str) -> tuple[np.ndarray, object]:
        out = tmp_path / "out.npy"
        chosen = EmbedOptions(
            model=str(tiny_model), precision="float32", device="cpu", overwrite=True, **options
        )
        done = embed_file(source, out, chosen)
        return np.load(out), done

    expected, _ = embed(human)
    vectors, done = embed(mouse, species="mouse")
    np.testing.assert_array_equal(vectors, expected, strict=True)
    assert done.provenance["species"] == "mouse"
    assert done.provenance["umis"] - done.provenance["umis_known"] == lost.sum()
    share = lost.sum() / (lost.sum() + counts.sum())
    assert any(f"{share:.0%} of the UMIs lie on mouse genes" in line for line in done.warnings)
    with pytest.raises(InputError, match="give --species mouse"):
        embed(mouse)
    with pytest.raises(InputError, match="leave --species out"):
        embed(human, species="mouse")


def test_a_transposed_file_is_told_so(tmp_path: Path, tiny_model: Path) -> None:
    ids = real_genes(N_GENES)[0]
    cells = ad.AnnData(
        sp.csr_matrix(some_counts(6).T),
        obs=pd.DataFrame(index=ids),
        var=pd.DataFrame(index=[f"cell{i}" for i in range(6)]),
    )
    path = tmp_path / "turned.h5ad"
    cells.write_h5ad(path)
    with pytest.raises(InputError, match=rf"genes x cells.*{ids[0]}.*cell0.*transpose"):
        embed_file(path, tmp_path / "out.npy", EmbedOptions(model=str(tiny_model)))
    assert not list(tmp_path.glob("out*"))
