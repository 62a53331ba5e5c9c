"""Every setting, as frozen keyword-only dataclasses.

The same tree is the command line's flags, the TOML under them, and the header that a checkpoint or
a result carries.
"""

from cellscribe.config.annotate import AnnotateOptions, FinetuneOptions
from cellscribe.config.corpus import (
    DATASET,
    LABELS,
    SOMA_ID,
    BuildOptions,
    CensusOptions,
    ReaderOptions,
    SplitOptions,
)
from cellscribe.config.embed import (
    EmbedOptions,
    ImportOptions,
    ModelOptions,
    OutputDtype,
    Precision,
)
from cellscribe.config.encoder import ModelConfig, Pooling
from cellscribe.config.evaluate import EvaluateOptions, PerturbOptions
from cellscribe.config.reading import (
    Preset,
    from_mapping,
    load_preset,
    preset_names,
    read_preset,
    read_toml,
)
from cellscribe.config.train import TrainOptions

__all__ = [
    "DATASET",
    "LABELS",
    "SOMA_ID",
    "AnnotateOptions",
    "BuildOptions",
    "CensusOptions",
    "EmbedOptions",
    "EvaluateOptions",
    "FinetuneOptions",
    "ImportOptions",
    "ModelConfig",
    "ModelOptions",
    "OutputDtype",
    "PerturbOptions",
    "Pooling",
    "Precision",
    "Preset",
    "ReaderOptions",
    "SplitOptions",
    "TrainOptions",
    "from_mapping",
    "load_preset",
    "preset_names",
    "read_preset",
    "read_toml",
]
