"""Options of the verb tokenize."""

from dataclasses import dataclass

from cellscribe.config.shared_options import CheckpointOptions, InputOptions, OutputOptions


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions(OutputOptions, InputOptions, CheckpointOptions):
    """How `cellscribe tokenize` works."""
