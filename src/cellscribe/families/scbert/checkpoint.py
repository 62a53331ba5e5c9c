"""scBERT (Yang et al., Nature Machine Intelligence 2022): ``panglao_pretrain.pth``.

A cell is read as published: its counts on the model's genes alone, over their sum to 10,000, log2
of 1 + x, cut to whole numbers, at most 5; then all genes go through the network in their fixed
order, also those without a count, followed by one empty place. The publication has no vector of a
cell: it classifies cells by a convolution over the vectors of all genes. The vector returned here,
their mean after the last norm, is our choice. The order of genes is not in the checkpoint, so it
is read from another file. Written from the published facts, not from the published code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import ImportOptions, ModelOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, Published, PublishedHead, check_options
from cellscribe.families.class_names import class_names, uncalibrated
from cellscribe.families.scbert.config import CONV_WIDTH, MASK_TOKENS, POSITIONS, ScbertConfig
from cellscribe.families.shards import without_prefixes
from cellscribe.families.source import Source, first_line
from cellscribe.families.symbols import symbol_table
from cellscribe.families.torch_file import lists
from cellscribe.families.weights import as_float

if TYPE_CHECKING:
    import torch

WANTS = "scBERT: panglao_pretrain.pth, with --genes FILE for the order of its genes"
CONFIG = ScbertConfig
POOLS = {
    "mean": "mean of the last hidden layer, after its norm, over all genes, the silent ones too",
    "max": "largest value of the last hidden layer, after its norm, over all genes, by dimension",
    "conv": "the published classifier's layers before its last one, over all genes",
}
WEIGHTS = ("panglao_pretrain.pth", "*.pth")
STATE = "model_state_dict"
LAYER = "performer.net.layers."
HEAD = "to_out."
"""Prefix of the names of the head: of pretraining, or of a cell type classifier."""
LAYERS = ("conv1", "fc1", "fc2", "fc3")
"""Of the published classifier, under `HEAD`."""
CLASSIFIER = {f"{HEAD}{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
COUNTER = "performer.calls_since_last_redraw"
GENES_HELP = (
    "name with --genes FILE the list of its genes, one symbol a line in the published order, or "
    "the panglao_10000.h5ad that is published with the weights"
)
NOTES = (
    "The publication has no vector of a cell (it classifies by a convolution over all genes); by "
    "default a vector is the mean over genes of the last hidden layer.",
    "Every cell takes all places of the network, whatever its number of genes, so embedding is "
    "slow: seconds a cell on a CPU.",
    "Genes are matched by symbol, exactly; the publication first brings symbols up to NCBI Gene "
    "of 10 January 2020. Counts on other genes do not enter a cell's total, as published.",
)


def recognise(source: Source) -> bool:
    """Whether this looks like scBERT's file, by its name or the tensors that it lists."""
    path = source.find(*WEIGHTS)
    if path is None:
        return False
    return path.name == WEIGHTS[0] or (lists(path, f"{LAYER}0.0.fn.fast_attention", POSITIONS))


def read_published(source: Source, options: ImportOptions) -> Published:
    """Read the published file, and the order of genes from ``options.genes``.

    Raises
    ------
    InputError
        No gene list, or one of another length than the model's; the file is damaged, holds more
        than tensors and plain values, lacks a tensor or has one too many.
    """
    from cellscribe.families.scbert.network import build_network, tensor_names
    from cellscribe.families.unpickle import read_torch
    from cellscribe.families.weights import renamed

    path = source.find(*WEIGHTS)
    assert path is not None
    if options.genes is None:
        raise InputError(f"{path}: holds no gene names; {GENES_HELP}")
    symbols = read_genes(options.genes)
    state = _state_dict(read_torch(path), path)
    head = sorted(name for name in state if name.startswith(HEAD))
    trunk = {name: x for name, x in state.items() if name not in head and name != COUNTER}
    depth = _depth(trunk, path)
    tensors = renamed(trunk, tensor_names(depth), str(path))
    config = _config(tensors, depth, path)
    classifier: PublishedHead | None = None
    told: list[str] = []
    if set(head) == CLASSIFIER:
        classifier, layers, told = _classifier(state, config, options.labels, path)
        hidden, width = layers["convolution.fc1.weight"], layers["convolution.fc2.weight"]
        config = replace(config, conv_hidden=len(hidden), conv_width=len(width))
        tensors, head = {**tensors, **layers}, []
    if len(symbols) != config.genes:
        raise InputError(
            f"{options.genes}: {len(symbols):,} genes, but {path.name} has places for "
            f"{config.genes:,}; {GENES_HELP}"
        )
    build_network(config, tensors, str(path))
    notes = [*NOTES, *told]
    if head:
        notes.append(f"Left out, for no cell's vector goes through it: {', '.join(head)}.")
    return Published(
        family="scbert",
        title=f"scBERT, {config.depth} layers, {config.width} wide, {config.genes:,} genes",
        settings=config.settings(),
        tensors=tensors,
        table=symbol_table(symbols),
        licence=(
            "GPL-3.0, which by its repository's LICENSE covers code and weights alike (its README "
            "says: all rights reserved)"
        ),
        origin=(
            "Tencent AI Lab (https://github.com/TencentAILabHealthcare/scBERT); order of genes "
            f"from {Path(options.genes).name}"
        ),
        notes=tuple(notes),
        head=classifier,
        vector={"pool": "conv"} if classifier else {},
    )


def load(
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    table: GeneTable,
    options: ModelOptions,
) -> CellModel:
    """Make a model of the parts of a `Published`.

    Raises
    ------
    InputError
        Settings, weights and gene table do not fit each other, or an option that scBERT lacks.
    """
    from cellscribe.families.scbert.network import Scbert, build_network

    pool = check_options(options, POOLS, "scBERT")
    config = from_mapping(ScbertConfig, dict(settings), "config.json")
    if pool == "conv" and not config.conv_width:
        raise InputError(
            "--pool conv: this scBERT has no convolution over genes; cellscribe finetune with "
            "--pool conv and --mode last, lora or all trains one"
        )
    if len(table) != config.genes:
        raise InputError(
            f"genes.tsv has {len(table):,} genes, config.json says {config.genes:,}; they belong "
            "to different models"
        )
    network = build_network(config, tensors, "model.safetensors")
    return Scbert(config, network, pool, f"{POOLS[pool]}; zeros for a cell without a known gene")


def with_convolution(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network that also has the published classifier's convolution over genes."""
    config = from_mapping(ScbertConfig, dict(settings), "config.json")
    return replace(config, conv_width=config.conv_width or CONV_WIDTH).settings()


def untrained(settings: Mapping[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """First weights of the convolution over genes."""
    from cellscribe.families.scbert.network import untrained_convolution

    return untrained_convolution(from_mapping(ScbertConfig, dict(settings), "config.json"), seed)


def read_genes(path: str | Path) -> list[str]:
    """Gene symbols in order: the lines of a text file, or the names of an .h5ad's columns.

    Raises
    ------
    InputError
        The file cannot be read, or has a symbol twice.
    """
    path = Path(path)
    if path.suffix == ".h5ad":
        names = _column_names(path)
    else:
        text = Source(path).text(path)
        names = [line.strip() for line in text.strip().splitlines()]
    if "" in names:
        raise InputError(f"{path}: line {names.index('') + 1} is empty; {GENES_HELP}")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise InputError(
            f"{path}: {', '.join(twice[:5])} stand more than once ({len(twice):,} such symbols); "
            f"{GENES_HELP}"
        )
    return names


def _column_names(path: Path) -> list[str]:
    import h5py

    from cellscribe.callbacks import log_stderr
    from cellscribe.cells.readers import hdf5_guard
    from cellscribe.cells.readers.frames import stored_frame
    from cellscribe.cells.readers.storage import member

    if not path.is_file():
        raise InputError(f"{path}: no such file; {GENES_HELP}")
    try:
        hdf5_guard.check(path, log_stderr)
        with h5py.File(path) as root:
            frame = stored_frame(member(root, "var", str(path)), f"{path}: var")
    except OSError:
        raise InputError(f"{path}: no .h5ad file, or damaged; {GENES_HELP}") from None
    return [str(name) for name in frame.index]


def _classifier(
    state: Mapping[str, torch.Tensor], config: ScbertConfig, names: Path | None, path: Path
) -> tuple[PublishedHead, dict[str, torch.Tensor], list[str]]:
    """Last layer of a fine-tuned classifier, the layers before it, and notes."""
    given = {name.removeprefix(HEAD): x for name, x in state.items() if name.startswith(HEAD)}
    if any(given[f"{layer}.weight"].ndim < 2 for layer in LAYERS):
        raise InputError(f"{path}: the layers of its classifier are not those of scBERT's own")
    made = {name: as_float(name, x, str(path)) for name, x in given.items()}
    made["conv1.weight"] = made["conv1.weight"].reshape(1, -1)
    labels, notes = class_names(len(made["fc3.weight"]), None, names, str(path))
    layers = {
        f"convolution.{ours}.{kind}": made[f"{theirs}.{kind}"]
        for ours, theirs in (("conv", "conv1"), ("fc1", "fc1"), ("fc2", "fc2"))
        for kind in ("weight", "bias")
    }
    weight, bias = made["fc3.weight"], made["fc3.bias"]
    if weight.shape[1] != len(made["fc2.weight"]) or bias.shape != weight.shape[:1]:
        raise InputError(f"{path}: the layers of its classifier do not fit each other")
    notes.append(uncalibrated("cells", labels))
    return PublishedHead(of="cells", labels=labels, weight=weight, bias=bias), layers, notes


def _state_dict(data: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    state = data.get(STATE) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping):
        found = "nothing"
        if isinstance(data, Mapping):
            found = ", ".join(first_line(name) for name in list(data)[:5])
        raise InputError(
            f"{path}: no {STATE} in it (it begins with {found}); give panglao_pretrain.pth, or a "
            "file that scBERT's fine-tuning saved"
        )
    if other := [
        n for n, x in state.items() if not (isinstance(x, torch.Tensor) and type(n) is str)
    ]:
        raise InputError(
            f"{path}: {first_line(other[0])} is no tensor; give the checkpoint as its makers "
            "published it"
        )
    return without_prefixes(state, str(path))


def _depth(trunk: Mapping[str, torch.Tensor], path: Path) -> int:
    """Number of layers, by the names of the tensors."""
    found = (re.match(rf"{re.escape(LAYER)}([0-9]{{1,6}})\.", name) for name in trunk)
    layers = {int(match[1]) for match in found if match}
    if layers != set(range(len(layers))):
        raise InputError(f"{path}: some of its layers are missing; download it again")
    return max(len(layers), 1)


def _config(tensors: Mapping[str, torch.Tensor], depth: int, path: Path) -> ScbertConfig:
    """Read the shape from the tensors."""
    tokens, places = tensors["tokens.weight"], tensors["places.weight"]
    projection = tensors["performer.layers.0.projection"]
    up, qkv = tensors["performer.layers.0.up.weight"], tensors["performer.layers.0.qkv.weight"]
    if any(x.ndim != 2 for x in (tokens, places, projection, up, qkv)):
        raise InputError(f"{path}: its tensors are not those of scBERT; download it again")
    shape = {
        "genes": len(places) - 1,
        "bins": len(tokens) - MASK_TOKENS,
        "width": tokens.shape[1],
        "depth": depth,
        "heads": len(qkv) // (3 * projection.shape[1]),
        "head_width": projection.shape[1],
        "ffn_width": len(up),
        "features": len(projection),
    }
    return from_mapping(ScbertConfig, shape, "scBERT")
