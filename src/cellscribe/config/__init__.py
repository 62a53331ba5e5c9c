"""Every setting, as frozen keyword-only dataclasses.

The same tree is the command line's flags, the TOML under them, and the header that a checkpoint or
a result carries.
"""

from cellscribe.config.annotate import AnnotateOptions
from cellscribe.config.atlas import ShardOptions
from cellscribe.config.checked import from_mapping
from cellscribe.config.corpus import (
    DATASET,
    LABELS,
    SOMA_ID,
    BuildOptions,
    CensusOptions,
    ReaderOptions,
    SplitOptions,
)
from cellscribe.config.embed import EmbedOptions
from cellscribe.config.encoder import ModelConfig, Pooling
from cellscribe.config.enhance import EnhanceOptions
from cellscribe.config.evaluate import EvaluateOptions
from cellscribe.config.explore import ExploreOptions
from cellscribe.config.finetune import FinetuneOptions
from cellscribe.config.genes import GenesOptions
from cellscribe.config.index import AddOptions, IndexOptions, QueryOptions
from cellscribe.config.models import ExportOptions, ImportOptions
from cellscribe.config.perturb import PerturbOptions
from cellscribe.config.reading import (
    Preset,
    load_preset,
    preset_names,
    read_preset,
    read_toml,
)
from cellscribe.config.shared_options import (
    CountsKind,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    Options,
    OutputDtype,
    Precision,
    Species,
    choose_options,
)
from cellscribe.config.tokenize import TokenizeOptions
from cellscribe.config.train import TrainOptions

__all__ = [
    "DATASET",
    "LABELS",
    "SOMA_ID",
    "AddOptions",
    "AnnotateOptions",
    "BuildOptions",
    "CensusOptions",
    "CountsKind",
    "DeviceOptions",
    "EmbedOptions",
    "EnhanceOptions",
    "EvaluateOptions",
    "ExploreOptions",
    "ExportOptions",
    "FinetuneOptions",
    "GenesOptions",
    "ImportOptions",
    "IndexOptions",
    "InputOptions",
    "ModelConfig",
    "ModelOptions",
    "Options",
    "OutputDtype",
    "PerturbOptions",
    "Pooling",
    "Precision",
    "Preset",
    "QueryOptions",
    "ReaderOptions",
    "ShardOptions",
    "Species",
    "SplitOptions",
    "TokenizeOptions",
    "TrainOptions",
    "choose_options",
    "from_mapping",
    "load_preset",
    "preset_names",
    "read_preset",
    "read_toml",
]
