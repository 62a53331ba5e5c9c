"""scGPT (Cui et al., Nature Methods 2024): ``best_model.pt``, ``args.json``, ``vocab.json``.

A cell is read as scGPT's own `embed_data` reads it: unscaled counts, 51 bins, at most 1,199
genes after <cls>, whose last hidden vector is scaled to unit length. Only the trunk is kept, and
it is kept under the published names (those of torch's transformer layers; flash attention's Wqkv
has the same rows under another name), so scGPT's own loader can read it back. Where that loader
passes over every tensor that does not fit, this one refuses.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import ImportOptions, ModelOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.base import MOST, CellModel, Published, check_options
from cellscribe.families.scgpt.config import ScgptConfig
from cellscribe.families.shards import PREFIX, WRAPPERS
from cellscribe.families.source import Source, first_line
from cellscribe.families.symbols import symbol_table
from cellscribe.families.weights import as_float

if TYPE_CHECKING:
    import torch

WANTS = "scGPT: a folder with best_model.pt, args.json and vocab.json"
CONFIG = ScgptConfig
POOLS = {
    "cls": "the last hidden layer at <cls>, scaled to unit length",
    "mean": "mean of the last hidden layer over a cell's genes, scaled to unit length",
}
WEIGHTS = ("best_model.pt", "*.pt")
SPECIALS = ("<pad>", "<cls>", "<eoc>")
"""Appended in this order where a vocabulary lacks them."""
FLASH = (
    (re.compile(r"\.self_attn\._impl\."), ".self_attn."),
    (re.compile(r"\.self_attn\.Wqkv\."), ".self_attn.in_proj_"),
)
NOT_TRUNK = (
    "flag_encoder",
    "decoder",
    "mvc_decoder",
    "cls_decoder",
    "grad_reverse_discriminator",
    "batch_encoder",
    "mod_encoder",
)
"""Parts that cell vectors do not use: heads, and encoders of labels for heads."""
BATCH_NORMS = ("dsbn", "bn")
EMBED_BINS = 51
"""Number of bins of `embed_data`, whatever args.json has."""


def recognise(source: Source) -> bool:
    """Whether this looks like scGPT's files, by their names and the keys of args.json."""
    if source.find(*WEIGHTS) is None:
        return False
    if source.has("best_model.pt"):
        return True
    args = source.find_sibling("args.json")
    return args is not None and '"embsize"' in source.text(args)


def read_published(source: Source, options: ImportOptions) -> Published:
    """Read a folder of scGPT, or its weights with the other files beside them.

    Raises
    ------
    InputError
        A file is missing or damaged; the model is of a kind that `embed_data` does not read; the
        weights lack a tensor of the trunk or have one too many; sizes do not fit.
    """
    from cellscribe.families.scgpt.network import build_network
    from cellscribe.families.unpickle import read_torch

    path = source.find(*WEIGHTS)
    assert path is not None
    args_path = source.find_sibling("args.json")
    if args_path is None:
        raise InputError(
            f"{path.parent}: args.json is missing, which says how many heads the model has; copy "
            "it from the published folder"
        )
    args = _read_args(source, args_path)
    vocab_path = options.genes or source.find_sibling("vocab.json")
    if vocab_path is None:
        raise InputError(
            f"{path.parent}: vocab.json is missing, which says what gene each token is; copy it "
            "from the published folder, or name it with --genes FILE"
        )
    names, appended = _read_vocabulary(source, Path(vocab_path))
    tensors, left_out = _trunk(_state_dict(read_torch(path), path), path)
    rows = tensors["encoder.embedding.weight"].shape[0]
    if rows != len(names):
        raise InputError(
            f"{vocab_path}: {len(names):,} tokens (special ones included), but {path.name} has "
            f"{rows:,} gene vectors; they belong to different models"
        )
    config = _config(args, args_path, names)
    build_network(config, tensors, str(path))
    return Published(
        family="scgpt",
        title=(
            f"scGPT, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
            f"{config.vocab_size:,} tokens"
        ),
        settings=dataclasses.asdict(config),
        tensors=tensors,
        table=symbol_table(names),
        licence="not stated for the weights; scGPT's code is MIT",
        origin=(
            "the Wang lab (Cui et al., Nature Methods 2024; https://github.com/bowang-lab/scGPT), "
            "unless trained further since, of which the files say nothing"
        ),
        notes=_notes(args, appended, left_out),
    )


def load(
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    table: GeneTable,
    options: ModelOptions,
) -> CellModel:
    """Make a model of what `read_published` gave.

    Raises
    ------
    InputError
        Settings, weights and gene table do not fit each other, or an option that scGPT lacks.
    """
    from cellscribe.families.scgpt.network import Scgpt, build_network

    pool = check_options(options, POOLS, "scGPT")
    config = from_mapping(ScgptConfig, dict(settings), "config.json")
    if len(table) != config.vocab_size:
        raise InputError(
            f"genes.tsv has {len(table):,} tokens, config.json says {config.vocab_size:,}; they "
            "belong to different models"
        )
    network = build_network(config, tensors, "model.safetensors")
    return Scgpt(config, network, pool, f"{POOLS[pool]}; zeros for a cell without a known gene")


def _read_args(source: Source, path: Path) -> dict[str, Any]:
    """args.json, if it is that of a model that `embed_data` reads."""
    args = source.json(path)
    if not isinstance(args, dict):
        raise InputError(f"{path}: not a table of settings; copy or download it again")
    style = args.get("input_emb_style", "continuous")
    if style != "continuous":
        raise InputError(
            f"{path}: input_emb_style {style!r:.40}; only models that read values as numbers "
            "(continuous) can be imported"
        )
    if args.get("pre_norm"):
        raise InputError(f"{path}: pre_norm models, of which none is published, are not read")
    for key in ("embsize", "nheads", "d_hid", "nlayers", "pad_value"):
        value = args.get(key)
        # NaN and what no float holds are no numbers either
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MOST:
            raise InputError(f"{path}: {key} is missing or no number; copy or download it again")
    return args


def _read_vocabulary(source: Source, path: Path) -> tuple[list[str], list[str]]:
    """Names in token order, special ones appended where they lack, and which these were."""
    ids = source.json(path)
    if not (isinstance(ids, dict) and all(type(i) is int for i in ids.values())):
        raise InputError(f"{path}: not a table of token numbers by gene; give scGPT's vocab.json")
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError(
            f"{path}: its {len(ids):,} tokens are not numbered 0 to {len(ids) - 1:,}, each once; "
            "copy or download it again"
        )
    names = sorted(ids, key=ids.__getitem__)
    if odd := [name for name in names if not name or not name.isprintable()]:
        raise InputError(
            f"{path}: {first_line(repr(odd[0]))} is no name of a gene; give scGPT's vocab.json"
        )
    appended = [name for name in SPECIALS if name not in ids]
    return names + appended, appended


def _state_dict(data: Any, path: Path) -> dict[str, torch.Tensor]:
    """The weights in whatever a training script wrapped them, under one kind of name."""
    import torch

    for key in WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: holds a {type(data).__name__}, not a state dict of tensors")
    state = {}
    for name, tensor in data.items():
        if isinstance(name, str) and isinstance(tensor, torch.Tensor):
            name = PREFIX.sub("", name)
            for pattern, torch_name in FLASH:
                name = pattern.sub(torch_name, name)
            if name in state:
                raise InputError(
                    f"{path}: holds {first_line(name)} under two names; give best_model.pt as its "
                    "makers published it"
                )
            state[name] = tensor
    if "encoder.embedding.weight" not in state:
        found = ", ".join(first_line(name) for name in list(data)[:5]) or "nothing"
        raise InputError(
            f"{path}: no scGPT, for it has no encoder.embedding.weight (it begins with {found}); "
            "give the best_model.pt of a pretrained or fine-tuned scGPT"
        )
    return state


def _trunk(
    state: Mapping[str, torch.Tensor], path: Path
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Tensors that a cell vector uses, float32, and the parts that were left out."""
    kept, left_out = {}, {}
    for name, tensor in state.items():
        part = name.partition(".")[0]
        if part in (*NOT_TRUNK, *BATCH_NORMS):
            left_out[part] = True
        else:
            kept[name] = as_float(name, tensor, str(path))
    return kept, tuple(left_out)


def _config(args: Mapping[str, Any], where: Path, names: list[str]) -> ScgptConfig:
    return from_mapping(
        ScgptConfig,
        {
            "vocab_size": len(names),
            "hidden_size": args["embsize"],
            "num_hidden_layers": args["nlayers"],
            "num_attention_heads": args["nheads"],
            "intermediate_size": args["d_hid"],
            "cls_token": names.index("<cls>"),
            "cls_value": float(args["pad_value"]),
            "n_bins": EMBED_BINS,
        },
        str(where),
    )


def _notes(
    args: Mapping[str, Any], appended: list[str], left_out: tuple[str, ...]
) -> tuple[str, ...]:
    """List what a user must know of this model."""
    notes = [
        "Bins of tied counts and the genes of cells with more than 1,199 are drawn from the cell's "
        "own content; scGPT's embed_data draws them anew in every run, so its vectors differ "
        "slightly from these and from each other."
    ]
    if heads := [part for part in left_out if part not in BATCH_NORMS]:
        notes.append(f"Left out, for no cell's vector goes through them: {', '.join(heads)}.")
    if norms := [part for part in left_out if part in BATCH_NORMS]:
        notes.append(
            f"The batch norm of the network's input ({', '.join(norms)}) is left out, as "
            "embed_data does, though these weights were trained with it; expect weaker vectors."
        )
    if appended:
        notes.append(f"Appended to the vocabulary, as scGPT does: {', '.join(appended)}.")
    if args.get("n_bins", EMBED_BINS) != EMBED_BINS:
        notes.append(
            f"args.json says n_bins {args['n_bins']}; embed_data makes {EMBED_BINS} whatever it "
            "says, and so does this."
        )
    if args.get("input_style", "binned") != "binned":
        notes.append(
            f"args.json says input_style {args['input_style']!r}; embed_data bins values whatever "
            "it says, and so does this."
        )
    return tuple(notes)
