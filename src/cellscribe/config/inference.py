"""Options of the verbs that use a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "float32", "bf16", "fp16"]
OutputDtype = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How `cellscribe embed` works."""

    model: str = "mini"
    """A bundled model's name or a checkpoint directory."""
    layer: str | None = None
    """Where the raw counts are: X (default), raw, or a layer's name."""
    gene_key: str | None = None
    """Column of var with Ensembl ids or symbols; found by its values if not given."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Of matrix products; auto takes bf16 where the hardware has it."""
    dtype: OutputDtype = "float32"
    """Of the vectors that are written."""
    threads: int | None = None
    """CPU workers; all usable cores if not given."""
    key_added: str = "X_cellscribe"
    """Name of the vectors in obsm of an .h5ad or .zarr."""
    resume: bool = False
    """Go on with an interrupted run, where there is one."""
    overwrite: bool = False
    """Replace an output that exists."""
