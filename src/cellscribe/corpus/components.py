"""Principal components of a corpus: a fixed linear map from raw counts to scores of a cell.

Log-normalised counts (10,000 a cell, over the vocabulary's genes) of the genes that vary most
within datasets, centred, not scaled. Each dataset weighs as the square root of its cells, so that
the largest does not own the axes. The scores of whole cells are what the second objective of
training estimates from less of the same cells, and, applied to other files as they are, a baseline
that every fixed map of cells should be compared with.

Letters: ``B`` cells, ``V`` tokens, ``G`` genes that are read, ``C`` components.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import MAX_TOKENS
from cellscribe.cells.log_norm import log_norm
from cellscribe.config.files import check_file
from cellscribe.errors import InputError
from cellscribe.writing import writing

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COMPONENTS = "components.safetensors"
"""Name of the file in a model directory."""
GENES = 3_000
"""Genes that are read."""
MOST_CELLS = 50_000
"""Cells that a fit should look at: 600 MB."""
TARGET_POWER = 0.25
"""Power to which an axis's spread counts in a target: 0 makes all axes alike, 1 leaves them."""

PARTS = {
    "tokens": np.integer, "mean": np.floating, "loadings": np.floating, "spread": np.floating,
}  # fmt: skip
"""Arrays of the file, and the kind of their numbers."""
MOST_BYTES = 4 << 30

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Principal components of a corpus."""

    tokens: npt.NDArray[np.int64]
    """``[G]`` genes that are read, as tokens of the corpus's vocabulary, ascending."""
    mean: Floats
    """``[G]`` weighted mean of their log-normalised counts."""
    loadings: Floats
    """``[G, C]`` orthonormal axes, by falling variance, rounded to float16."""
    spread: Floats
    """``[C]`` standard deviation of the corpus's scores."""

    @property
    def target_scale(self) -> Floats:
        """``[C]`` factors that bring the scores of the corpus's cells to a mean square of 1.

        Between equal spread of all axes and the spread that they have, see `TARGET_POWER`.
        """
        spread = self.spread**TARGET_POWER
        return np.asarray(spread / np.sqrt((spread**2).mean()) / self.spread, np.float32)

    def scores(self, counts: csr_matrix) -> Floats:
        """Project cells.

        Parameters
        ----------
        counts
            ``[B, V]`` raw counts by token.

        Returns
        -------
        numpy.ndarray
            ``[B, C]`` float32.
        """
        found = log_norm(counts)[:, self.tokens] @ self.loadings - self.mean @ self.loadings
        return found.astype(np.float32)

    def save(self, directory: Path) -> Path:
        """Write the file into a model directory, loadings in float16; it appears whole."""
        from safetensors.numpy import save_file

        path = directory / COMPONENTS
        with writing(path) as partial:
            save_file(
                {
                    "tokens": self.tokens,
                    "mean": self.mean,
                    "loadings": np.ascontiguousarray(self.loadings, np.float16),
                    "spread": self.spread,
                },
                partial,
            )
            partial.chmod(0o644)  # safetensors makes it readable by its owner alone
        return path


def read_components(directory: Path) -> Components | None:
    """Read the components beside a model's weights; None if the model has none.

    Raises
    ------
    InputError
        The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, again = directory / COMPONENTS, "copy the whole model folder again"
    if not path.is_symlink() and not path.exists():
        return None
    check_file(path, fix=again, most=MOST_BYTES)
    try:
        kept = load_file(path)
        types = {name: kept[name].dtype for name in PARTS}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); {again}") from None
    for name, kind in PARTS.items():
        if not np.issubdtype(types[name], kind):
            raise InputError(f"{path}: damaged ({name} is of type {types[name]}); {again}")
    found = Components(
        tokens=kept["tokens"].astype(np.int64),
        mean=kept["mean"].astype(np.float32),
        loadings=kept["loadings"].astype(np.float32),
        spread=kept["spread"].astype(np.float32),
    )
    n_genes, n_components = found.loadings.shape if found.loadings.ndim == 2 else (-1, -1)
    whole = all(np.isfinite(part).all() for part in (found.mean, found.loadings, found.spread))
    if (found.tokens.shape, found.mean.shape, found.spread.shape) != (
        (n_genes,), (n_genes,), (n_components,),
    ) or not whole:  # fmt: skip
        raise InputError(f"{path}: damaged (its parts do not fit); {again}")
    ascending = n_genes > 0 and found.tokens[0] >= 0 and (np.diff(found.tokens) > 0).all()
    if not ascending or found.tokens[-1] >= MAX_TOKENS or not (found.spread > 0).all():
        raise InputError(f"{path}: damaged (tokens out of order, or a spread of zero); {again}")
    return found


def fit_components(
    counts: csr_matrix, datasets: npt.NDArray[np.integer], n: int, *, seed: int
) -> Components:
    """Fit components on the cells of a corpus.

    Parameters
    ----------
    counts
        ``[B, V]`` raw counts by token, of at most about `MOST_CELLS` cells.
    datasets
        ``[B]`` number of the dataset of each cell.
    n
        ``C``; fewer than cells and genes.
    seed
        Of the randomised solver (Halko et al. 2011, arXiv:0909.4061).

    Raises
    ------
    InputError
        More components than cells or genes can give.
    """
    from sklearn.utils.extmath import randomized_svd

    if n >= min(counts.shape):
        raise InputError(
            f"{n} components cannot be fitted on {counts.shape[0]:,} cells; lower cell_scores"
        )
    logs = log_norm(counts)
    names, codes, sizes = np.unique(datasets, return_inverse=True, return_counts=True)
    weights = np.sqrt(sizes) / np.sqrt(sizes).sum()
    moments = [_moments(logs[codes == each]) for each in range(len(names))]
    within = sum(weight * variance for weight, (_, variance) in zip(weights, moments, strict=True))
    tokens = np.sort(np.argsort(-np.asarray(within), kind="stable")[:GENES])
    mean = np.sum([w * m[tokens] for w, (m, _) in zip(weights, moments, strict=True)], axis=0)
    centred = logs[:, tokens].toarray().astype(np.float32) - mean.astype(np.float32)
    of_cell = np.sqrt((weights / sizes)[codes] * len(codes)).astype(np.float32)
    _, _, axes = randomized_svd(centred * of_cell[:, None], n, n_iter=4, random_state=seed)
    # as they are stored: a model that is read again gives the same scores
    loadings = np.ascontiguousarray(axes.T).astype(np.float16).astype(np.float32)
    return Components(
        tokens=tokens,
        mean=mean.astype(np.float32),
        loadings=loadings,
        spread=np.maximum((centred @ loadings).std(axis=0), 1e-6),
    )


def _moments(
    logs: csr_matrix,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of each column."""
    mean = np.asarray(logs.mean(axis=0), np.float64).ravel()
    square = np.asarray(logs.multiply(logs).mean(axis=0), np.float64).ravel()
    return mean, square - mean**2
