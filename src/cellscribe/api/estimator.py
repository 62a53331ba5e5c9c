"""A model as a step of a scikit-learn pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cellscribe.config import CountsKind, OutputDtype, Precision, Species
from cellscribe.errors import InputError, boundary

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


class CellEmbedder(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Vectors of cells, as a transformer of scikit-learn.

    The model is trained already, so `fit` only opens it and labels are not looked at: within
    cross-validation nothing leaks from a fold into another.

    Parameters
    ----------
    model
        A bundled model's name, a checkpoint directory, or a loaded model from `load`.
    layer, gene_key, species, counts
        How the cells are read, as for `embed`.
    device, precision, threads
        Where and how the model computes, as for `load`.
    dtype
        Type of the vectors.

    Attributes
    ----------
    model_
        The loaded model.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> import cellscribe
    >>> cells = cellscribe.sample()
    >>> types = make_pipeline(cellscribe.CellEmbedder(), LogisticRegression(max_iter=1000))
    >>> types.fit(cells[:600], cells.obs["cell_type"][:600]).predict(cells[600:]).shape
    (100,)
    """

    def __init__(
        self,
        model: str | Path | Embedder = "mini",
        *,
        layer: str | None = None,
        gene_key: str | None = None,
        species: Species = "human",
        counts: CountsKind = "raw",
        device: str = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
        dtype: OutputDtype = "float32",
    ) -> None:
        self.model = model
        self.layer = layer
        self.gene_key = gene_key
        self.species = species
        self.counts = counts
        self.device = device
        self.precision = precision
        self.threads = threads
        self.dtype = dtype

    @boundary
    def fit(self, X: AnnData | pd.DataFrame | str | Path, y: Any = None) -> CellEmbedder:
        """Open the model.

        Parameters
        ----------
        X
            Cells, see `transform`; they are not looked at.
        y
            Not looked at.

        Raises
        ------
        InputError
            See `load`.
        """
        from cellscribe.inference.embedder import Embedder, load

        if isinstance(self.model, Embedder):
            self.model_ = self.model
        else:
            self.model_ = load(
                self.model, device=self.device, precision=self.precision, threads=self.threads
            )
        self._n_features_out = self.model_.width
        return self

    @boundary
    def transform(self, X: AnnData | pd.DataFrame | str | Path) -> npt.NDArray[np.floating]:
        """Embed cells.

        Parameters
        ----------
        X
            An AnnData, a file of any known format, or a data frame of cells x genes whose columns
            are Ensembl ids or symbols. Raw counts.

        Returns
        -------
        numpy.ndarray
            ``[n_cells, D]``; a data frame after ``set_output(transform="pandas")``.

        Raises
        ------
        InputError
            See `embed`; an array, which does not say which gene each column is.
        """
        check_is_fitted(self, "model_")
        return self.model_.embed(
            _cells(X),
            layer=self.layer,
            gene_key=self.gene_key,
            species=self.species,
            counts=self.counts,
            dtype=self.dtype,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.two_d_array = False
        tags.input_tags.positive_only = True
        return tags


def _cells(cells: Any) -> Any:
    import pandas as pd
    from anndata import AnnData

    if isinstance(cells, pd.DataFrame):
        names = cells.index.astype(str)
        return AnnData(
            cells.to_numpy(),
            obs=pd.DataFrame(index=names),
            var=pd.DataFrame(index=cells.columns.astype(str)),
        )
    if isinstance(cells, AnnData | str | Path):
        return cells
    raise InputError(
        f"CellEmbedder: {type(cells).__name__} does not say which gene each column is; give an "
        "AnnData, a file, or a data frame with genes as its columns"
    )
