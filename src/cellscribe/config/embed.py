"""Options of the verb embed."""

from dataclasses import dataclass

from cellscribe.config.shared_options import (
    CheckpointOptions,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputDtype,
    OutputOptions,
)
from cellscribe.errors import InputError

TAKEN = ("cell_id", "embedding", "source")
"""Columns of a result of embed or collect."""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CheckpointOptions):
    """How `cellscribe embed` works."""

    dtype: OutputDtype = "float32"
    """Type of the vectors that are written."""
    key_added: str = "X_cellscribe"
    """Name of the vectors in obsm of an .h5ad or .zarr."""
    obs: tuple[str, ...] = ()
    """Columns of obs to write next to the vectors in a .parquet; an .h5ad or .zarr has them all."""
    resume: bool = False
    """Go on with an interrupted run, where there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.obs:
            if name in TAKEN:
                raise InputError(f"--obs {name}: a result has such a column of its own; rename it")
            if not name or self.obs.count(name) > 1:
                raise InputError(
                    f"--obs {name!r} is no name or stands twice; name each column once"
                )
