"""Options of the verb enhance."""

from dataclasses import dataclass

from cellscribe.config.shared_options import (
    CheckpointOptions,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
)


@dataclass(frozen=True, kw_only=True)
class EnhanceOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CheckpointOptions):
    """How `cellscribe enhance` works."""
