"""Every setting, as frozen keyword-only dataclasses.

The same tree is the command line's flags, the TOML under them, and the header that a checkpoint or
a result carries. Model fields keep Hugging Face's names, so that a checkpoint's ``config.json`` is
read by ``transformers`` unchanged.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from cellscribe.errors import InputError

Precision = Literal["auto", "float32", "bf16", "fp16"]
OutputDtype = Literal["float32", "float16"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the encoder; defaults are geneformer-10M-240530 (NVIDIA sc-FM model card)."""

    vocab_size: int = 25_429
    """Tokens: 25,424 genes and 5 special tokens."""
    hidden_size: int = 256
    """Width of the residual stream."""
    num_hidden_layers: int = 6
    """Transformer blocks."""
    num_attention_heads: int = 4
    """Attention heads a block."""
    intermediate_size: int = 512
    """Width of the feed-forward layer."""
    max_position_embeddings: int = 2_048
    """Rows of the learned position table."""
    context: int = 1_024
    """Genes a cell is cut to; special tokens come on top."""
    hidden_act: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Activation of feed-forward layer and masked-gene head ("gelu_new": tanh approximation)."""
    norm: Literal["post", "pre"] = "post"
    """LayerNorm after each residual sum (BERT), or before each sub-layer with one at the end."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    hidden_dropout_prob: float = 0.02
    """Dropout on embeddings and on each sub-layer's output."""
    attention_probs_dropout_prob: float = 0.10
    """Dropout on attention weights."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    type_vocab_size: int = 2
    """Rows of BERT's token-type table; only row 0 is used."""
    pad_token_id: int = 2
    """Id of [PAD]."""
    cls_token: bool = True
    """Put [CLS] in front of the genes."""

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; choose a width that the heads divide"
            )
        if self.context + self.cls_token > self.max_position_embeddings:
            raise InputError(
                f"context {self.context} and its special tokens do not fit into "
                f"max_position_embeddings {self.max_position_embeddings}; lower the context"
            )


def from_mapping(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Make a config of `kind` from a mapping; an unknown key is an error that names it."""
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why not."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def preset_names() -> list[str]:
    """Names of the bundled presets."""
    folder = resources.files("cellscribe") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_preset(name: str) -> ModelConfig:
    """Read the ``[model]`` table of a bundled preset.

    Raises
    ------
    InputError
        No preset has that name.
    """
    if name not in preset_names():
        raise InputError(f"no preset {name!r}; there are {', '.join(preset_names())}")
    with resources.as_file(resources.files("cellscribe") / "presets" / f"{name}.toml") as path:
        return from_mapping(ModelConfig, read_toml(path).get("model", {}), f"preset {name}")


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
