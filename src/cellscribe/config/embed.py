"""Options of the verbs that use a model, or bring one in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bf16", "fp16"]
OutputDtype = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What may be asked of a model; None is what its family publishes as its own way."""

    pool: str | None = None
    """How a cell's vector is made of its genes' (genes, cls, ...; cellscribe info names them)."""
    hidden_layer: int | None = None
    """Layer that vectors are read from, counted from the end: -1 is the last."""
    target_depth: str | None = None
    """Read depth that scFoundation is told to aim at: t4 (10^4 counts), f2 (twofold), a1 (+1)."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What `cellscribe import` may have to be told."""

    genes: Path | None = None
    """Gene list or dictionaries that are not in SRC itself; a refusal says when it is needed."""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(ModelOptions):
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
