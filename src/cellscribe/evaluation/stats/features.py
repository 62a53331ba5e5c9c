"""Features that baselines are made of: what the standard workflow gives without any model.

Normalised counts, their most variable genes, principal components; Harmony and scVI where the extra
``eval`` is installed. All are fitted on the cells they are given, without a label. Genes are chosen
by the plain variance of their normalised counts: one rule, no fit, and the same for every task.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.cells.log_norm import HVG, log_norm, most_variable

if TYPE_CHECKING:
    from cellscribe.evaluation.data import Cells

SCVI_EPOCHS = 100
"""Most passes of scVI over the cells; its own rule is 400 for 20,000 cells or fewer."""
SCVI_PATIENCE = 15
"""Passes without a better loss on held-out cells, after which scVI stops before that."""


def hvg(counts: csr_matrix, n: int = HVG) -> npt.NDArray[np.float64]:
    """``[B, n]`` normalised counts of the `n` genes chosen by `most_variable`."""
    logs = log_norm(counts)
    return logs[:, most_variable(logs, n)].toarray()


def pca(
    counts: csr_matrix, components: int = 50, *, genes: int = HVG, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Project cells the standard way: counts per 10,000, log1p, most variable genes, PCA.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts.
    components
        Principal components of the centred columns; no more than cells or genes.
    genes
        Columns kept, see `most_variable`.
    seed
        Of the randomised solver.

    Returns
    -------
    numpy.ndarray
        ``[B, components]``.
    """
    from sklearn.decomposition import PCA

    chosen = hvg(counts, genes)
    return PCA(min(components, *chosen.shape), random_state=seed).fit_transform(chosen)


def fit_features(
    counts: csr_matrix,
    *,
    components: int | None,
    seed: int = 0,
    always: npt.NDArray[np.int64] | None = None,
) -> Callable[[csr_matrix], npt.NDArray[np.float64]]:
    """Fit the features of `hvg`, or of `pca`, for other counts of the same genes.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts that genes and components are chosen by.
    components
        Principal components, at most as many as there are; None for the genes themselves.
    seed
        Of the randomised solver.
    always
        Columns that are kept, see `most_variable`.

    Returns
    -------
    Callable
        Makes features ``[b, D]`` of raw counts ``[b, G]``.
    """
    logs = log_norm(counts)
    kept = most_variable(logs, HVG, always)

    def genes(counts: csr_matrix) -> npt.NDArray[np.float64]:
        return log_norm(counts)[:, kept].toarray()

    if components is None:
        return genes
    from sklearn.decomposition import PCA

    fitted = PCA(min(components, len(kept), counts.shape[0]), random_state=seed)
    fitted.fit(logs[:, kept].toarray())
    return lambda counts: fitted.transform(genes(counts))


def harmony(
    pcs: npt.NDArray[np.floating], batch: npt.NDArray[np.object_], *, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Move cells of all batches together by Harmony, as harmonypy does it with its settings.

    Korsunsky et al., Nature Methods 2019.

    Parameters
    ----------
    pcs
        ``[B, D]`` principal components.
    batch
        ``[B]`` batch of each cell; two batches or more.
    seed
        Of the clusters it starts from.

    Returns
    -------
    numpy.ndarray
        ``[B, D]``.
    """
    import pandas as pd
    from harmonypy import run_harmony

    batches = pd.DataFrame({"batch": np.asarray(batch).astype(str)})
    found = run_harmony(
        np.asarray(pcs, np.float64), batches, "batch", verbose=False, random_state=seed, ncores=1
    )
    return np.asarray(found.Z_corr, np.float64)


def scvi_latent(
    cells: Cells, batch: npt.NDArray[np.object_] | None = None, *, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Train scVI on the cells, and return the means of its latent variables.

    Lopez et al., Nature Methods 2018, with the settings of scvi-tools (10 latent variables) on raw
    counts of the `HVG` most variable genes, on CPU, for `SCVI_EPOCHS` or less.

    Parameters
    ----------
    cells
        Raw counts; a cell without a count on these genes is not trained on and gets zeros, the mean
        of the prior.
    batch
        ``[B]`` batch of each cell, given to the model as covariate.
    seed
        Of weights, draws and the held-out tenth of the cells.

    Returns
    -------
    numpy.ndarray
        ``[B, 10]``.
    """
    import anndata
    import pandas as pd

    with _quiet(seed):
        from scvi.model import SCVI

        counts = cells.counts[:, most_variable(log_norm(cells.counts), HVG)]
        filled = np.asarray(counts.sum(axis=1)).ravel() > 0
        covariate = np.zeros(len(filled), int) if batch is None else np.asarray(batch).astype(str)
        obs = pd.DataFrame({"batch": pd.Categorical(covariate[filled])})
        obs.index = obs.index.astype(str)
        adata = anndata.AnnData(csr_matrix(counts[filled]), obs=obs)
        SCVI.setup_anndata(adata, batch_key=None if batch is None else "batch")
        model = SCVI(adata)
        # scvi-tools splits by a seed of its own, whose setter changes the environment for good
        order = np.random.default_rng(seed).permutation(adata.n_obs)
        held = max(adata.n_obs // 10, 1)
        model.train(
            max_epochs=SCVI_EPOCHS, accelerator="cpu", devices=1, early_stopping=True,
            early_stopping_patience=SCVI_PATIENCE,
            datasplitter_kwargs={"external_indexing": [order[held:], order[:held]]},
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        latent = model.get_latent_representation()
    vectors = np.zeros((len(filled), latent.shape[1]), np.float32)
    vectors[filled] = latent
    return vectors


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Seed torch and numpy as scvi-tools wants it, and put them back; mute what it prints."""
    import torch

    before, level = np.random.get_state(), logging.root.manager.disable  # noqa: NPY002
    logging.disable(logging.WARNING)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
        ):
            # advice on workers and hardware, which is the same for every cell and no one's to heed
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
        logging.disable(level)
