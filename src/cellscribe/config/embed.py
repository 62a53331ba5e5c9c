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


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CheckpointOptions):
    """How `cellscribe embed` works."""

    dtype: OutputDtype = "float32"
    """Type of the vectors that are written."""
    key_added: str = "X_cellscribe"
    """Name of the vectors in obsm of an .h5ad or .zarr."""
    resume: bool = False
    """Go on with an interrupted run, where there is one."""
