"""scFoundation (Hao et al., Nature Methods 2024): ``models.ckpt`` and its list of 19,264 genes.

A cell is read as published for single cells with raw counts: over the total of the listed genes to
10,000, log1p, followed by two values of read depth. The file holds the network three times, each
trained further for one use: cell embeddings, gene embeddings, read-depth enhancement. All three
are kept, each without the tensors that its use does not need. A tensor that several share is
stored once: ``cell+gene.pos_emb.weight`` belongs to the first two. After that prefix come the
published names. Bulk samples (``counts="tpm"``) are read by a rule of their own, as published;
values that are logarithms already are not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import ImportOptions, ModelOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, Published, check_options
from cellscribe.families.scfoundation.branches import merge, split
from cellscribe.families.scfoundation.config import (
    AGAIN,
    BRANCHES,
    SPECIALS,
    Depth,
    ScfoundationConfig,
)
from cellscribe.families.shards import without_prefixes
from cellscribe.families.source import Source, first_line
from cellscribe.families.symbols import symbol_table
from cellscribe.families.torch_file import lists
from cellscribe.families.weights import as_float

if TYPE_CHECKING:
    import torch

WANTS = "scFoundation: models.ckpt, with OS_scRNA_gene_index.19264.tsv beside it or by --genes FILE"
ALL = "the last hidden layer at S and at T, its maximum and its mean over a cell's genes, in a row"
MAXIMUM = "maximum of the last hidden layer over a cell's genes, T and S"
BY_RDE = ", by the branch for read-depth enhancement"
CONFIG = ScfoundationConfig
POOLS = {
    "all": ALL,
    "max": MAXIMUM,
    "rde-all": ALL + BY_RDE,
    "rde-max": MAXIMUM + BY_RDE,
}
DEFAULT_DEPTH = "t4"
MODEL = "mae_autobin"
WEIGHTS = ("models.ckpt", "*.ckpt")
GENES = ("OS_scRNA_gene_index.19264.tsv", "OS_scRNA_gene_index*.tsv")
UNUSED = ("token_emb.emb_mask.weight", "token_emb.emb_pad.weight")
COUNTER = "decoder.performer.calls_since_last_redraw"
NOTES = (
    "The weights are for non-commercial research only, and may not be passed on; see the licence.",
    "A cell whose listed genes have a single count gets zeros: the published program stops at it.",
)


def recognise(source: Source) -> bool:
    """Whether this looks like scFoundation's file, by its name or what its archive lists."""
    path = _weights(source)
    return path is not None and (path.name == WEIGHTS[0] or lists(path, MODEL, "token_emb.mlp2"))


def read_published(source: Source, options: ImportOptions) -> Published:
    """Read the published file, and the order of genes from beside it or ``options.genes``.

    Raises
    ------
    InputError
        No gene list, or one of another length than the model's; the file is damaged, holds more
        than tensors and plain values, or none of its parts; a part lacks a tensor, has one too
        many, or another shape than the others.
    """
    from cellscribe.families.unpickle import read_torch

    path = _weights(source)
    assert path is not None
    nearby = source.find_sibling(*GENES) or Source(path.parent.parent).find_sibling(*GENES)
    list_path = options.genes or nearby
    if list_path is None:
        raise InputError(
            f"{path}: holds no gene names; put {GENES[0]} of the published repository beside it, "
            "or name it with --genes FILE"
        )
    names = read_genes(Path(list_path))
    config, branches = _branches(read_torch(path), path)
    if len(names) != config.genes:
        raise InputError(
            f"{list_path}: {len(names):,} genes, but {path.name} has places for "
            f"{config.genes:,}; give {GENES[0]} of the published repository"
        )
    tensors = merge(branches)
    return Published(
        family="scfoundation",
        title=(
            f"scFoundation, {config.depth} + {config.decoder_depth} layers, {config.width} wide, "
            f"{config.genes:,} genes, for {', '.join(BRANCHES[b].use for b in branches)}"
        ),
        settings=dataclasses.asdict(config),
        tensors=tensors,
        table=symbol_table([*names, *SPECIALS]),
        licence=(
            "scFoundation model licence of BioMap: non-commercial research purposes only, "
            "non-transferable, non-sublicensable, revocable "
            "(https://github.com/biomap-research/scFoundation/blob/main/MODEL_LICENSE)"
        ),
        origin="BioMap (https://github.com/biomap-research/scFoundation), or laid out as there",
        notes=_notes(branches),
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
        Settings, weights and gene table do not fit each other, an option that scFoundation lacks,
        or a branch that the checkpoint lacks.
    """
    from cellscribe.families.scfoundation.network import Scfoundation

    chosen = check_options(options, POOLS, "scFoundation", also=("target_depth",))
    aim = options.target_depth or DEFAULT_DEPTH
    config = from_mapping(ScfoundationConfig, dict(settings), "config.json")
    if len(table) != config.genes + len(SPECIALS):
        raise InputError(
            f"genes.tsv has {len(table):,} rows, config.json asks for "
            f"{config.genes + len(SPECIALS):,}; they belong to different models"
        )
    branch, _, pool = chosen.rpartition("-")
    sentence = (
        f"{POOLS[chosen]}; target depth {aim}; zeros for a cell without known genes or with a "
        "single count"
    )
    return Scfoundation(config, split(tensors), branch or "cell", pool, Depth.parse(aim), sentence)


def read_genes(path: Path) -> list[str]:
    """Gene symbols of ``OS_scRNA_gene_index.19264.tsv``, in order.

    Raises
    ------
    InputError
        The file cannot be read, or its lines are not a symbol and its number, from 0 on.
    """
    lines = Source(path).text(path).splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    for place, row in enumerate(rows):
        if len(row) != 2 or not row[0] or row[1].strip() != str(place):
            raise InputError(
                f"{path}, line {place + 2}: expected a gene symbol, a tab and {place}; give "
                f"{GENES[0]} of the published repository"
            )
    names = [row[0] for row in rows]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a gene stands twice; give {GENES[0]} as published")
    return names


def _weights(source: Source) -> Path | None:
    """The checkpoint; in a copy of the published repository it lies in a folder of its own."""
    inside = source.folder / "models" / WEIGHTS[0]
    if source.is_folder and source.find(*WEIGHTS) is None and inside.is_file():
        return inside
    return source.find(*WEIGHTS)


def _branches(
    data: Any, path: Path
) -> tuple[ScfoundationConfig, dict[str, dict[str, torch.Tensor]]]:
    """Shape, and of each branch in the file what is used of it, checked."""
    from cellscribe.families.scfoundation.network import build_network, tensor_names

    found = [branch for branch in BRANCHES if isinstance(data, Mapping) and branch in data]
    if not found:
        held = (
            ", ".join(first_line(key) for key in list(data)[:5])
            if isinstance(data, Mapping)
            else ""
        )
        raise InputError(
            f"{path}: none of {', '.join(BRANCHES)} in it (it holds {held or 'something else'}); "
            f"{AGAIN}"
        )
    configs = {branch: _config(data[branch], branch, path) for branch in found}
    config = configs[found[0]]
    if other := [branch for branch in found if configs[branch] != config]:
        raise InputError(
            f"{path}: its branches {found[0]} and {other[0]} differ in shape, which no published "
            f"file does; {AGAIN}"
        )
    everything = {name for parts in tensor_names(config, "rde").values() for name in parts}
    branches = {}
    for branch in found:
        state = _state(data[branch], branch, path)
        used = {name for parts in tensor_names(config, branch).values() for name in parts}
        passed_over = (everything - used) | {*UNUSED, COUNTER}
        where = f"{path}, branch {branch}"
        kept = {n: as_float(n, x, where) for n, x in state.items() if n not in passed_over}
        build_network(config, branch, kept, str(path))
        branches[branch] = kept
    return config, branches


def _config(part: Any, branch: str, path: Path) -> ScfoundationConfig:
    """Read the shape of a branch; settings of the data win over the model's, as published."""
    if not isinstance(part, Mapping):
        raise InputError(f"{path}, branch {branch}: no table of weights and settings; {AGAIN}")
    try:
        config = part["config"]
        model = config["model"]
        merged = {**config["model_config"][model], **config["dataset_config"]["rnaseq"]}
        sides = [str(merged[side]["module_type"]) for side in ("encoder", "decoder")]
        values = {
            "genes": merged["seq_len"] - 2,
            "bins": merged["bin_num"],
            "bin_alpha": merged["bin_alpha"],
        }
        for prefix, side in (("", "encoder"), ("decoder_", "decoder")):
            shape = merged[side]
            values[f"{prefix}width"] = shape["hidden_dim"]
            values[f"{prefix}depth"], values[f"{prefix}heads"] = shape["depth"], shape["heads"]
        values["decoder_head_width"] = merged["decoder"]["dim_head"]
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}, branch {branch}: its configuration lacks {first_line(error)}; {AGAIN}"
        ) from None
    if (model, *sides) != (MODEL, "transformer", "performer"):
        named = first_line(f"{model} of {sides[0]} and {sides[1]}")
        raise InputError(
            f"{path}, branch {branch}: a model {named}; only "
            f"{MODEL} of transformer and performer, as published, is read"
        )
    return from_mapping(ScfoundationConfig, values, f"{path}, branch {branch}")


def _state(part: Any, branch: str, path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a branch, without the prefix of their names."""
    import torch

    state = part.get("state_dict")
    if not isinstance(state, Mapping):
        raise InputError(f"{path}, branch {branch}: no state_dict in it; {AGAIN}")
    if other := [str(name) for name, x in state.items() if not isinstance(x, torch.Tensor)]:
        raise InputError(f"{path}, branch {branch}: {other[0]} is no tensor; {AGAIN}")
    return without_prefixes({str(name): tensor for name, tensor in state.items()}, str(path))


def _notes(branches: Mapping[str, object]) -> tuple[str, ...]:
    """List what a user must know of this file."""
    missing = [f"{part.use} ({name})" for name, part in BRANCHES.items() if name not in branches]
    lacks = f"The file holds no branch for {', '.join(missing)}; what needs it is refused."
    return (*NOTES, lacks) if missing else NOTES
