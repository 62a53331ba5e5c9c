"""Options of the verb genes."""

from dataclasses import dataclass

from cellscribe.config.shared_options import (
    CheckpointOptions,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
)


@dataclass(frozen=True, kw_only=True)
class GenesOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CheckpointOptions):
    """How `cellscribe genes` works."""
