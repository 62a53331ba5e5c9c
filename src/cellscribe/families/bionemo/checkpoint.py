"""BioNeMo's Geneformer (NVIDIA; sc-FM): Megatron's BERT, trained anew on CELLxGENE.

What differs from Geneformer is all in the header that an import writes: norms before the branches,
no norm and no token types on the embeddings, GELU (its tanh form in the feed-forward layer, where
Megatron fuses it with the bias; the exact one in the head), [CLS] before the genes and nothing
after them, and a cell's vector that leaves out its last gene. The model card names ReLU; NVIDIA's
code sets GELU whatever a checkpoint has, and so does this.

Three layouts are read: NeMo 1 archives, NeMo 2 folders, and Transformer Engine's export of
Geneformer's own weights, which is Geneformer in all but names (`transformer_engine`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.config import ImportOptions, ModelConfig, Pooling
from cellscribe.errors import InputError
from cellscribe.families.base import MOST, PublishedBert
from cellscribe.families.bionemo import genes, transformer_engine
from cellscribe.families.bionemo.nemo_archive import CONFIG, NemoArchive, yaml_values
from cellscribe.families.source import Source, first_line

if TYPE_CHECKING:
    import torch

WANTS = (
    "BioNeMo Geneformer: a .nemo archive, an unpacked BioNeMo 2 folder (context/, weights/), or an "
    "export for Transformer Engine; medians.json beside it or --genes"
)
POOLS = {
    "genes_but_last": "mean of the last hidden layer over a cell's genes but the last one",
    "genes": "mean of the last hidden layer over a cell's genes",
    "cls": "the last hidden layer at [CLS]",
}
LICENCE = "not stated in the checkpoint; see the model card of geneformer on NVIDIA NGC"
ORIGIN = "NVIDIA BioNeMo (https://github.com/NVIDIA/bionemo-framework)"
SETTINGS = (
    "num_attention_heads",
    "activation",
    "layernorm_epsilon",
    "normalization",
    "layernorm_zero_centered_gamma",
)
"""Settings that are read from the config of a checkpoint; the tensors give all others."""
METADATA, BACKEND = "metadata.json", "sharded_backend"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A checkpoint's own contents, whatever its layout."""

    tensors: dict[str, torch.Tensor]
    stated: dict[str, str]
    """`SETTINGS` as its config has them; empty where it has no config."""
    where: str


def recognise(source: Source) -> bool:
    """Whether this looks like one of the three layouts, by names and a JSON file."""
    return (
        source.find("*.nemo") is not None
        or weights_folder(source) is not None
        or transformer_engine.recognise(source)
    )


def weights_folder(source: Source) -> Path | None:
    """Folder of a distributed checkpoint within a BioNeMo 2 folder, or that one itself."""
    if not source.is_folder:
        return None
    for inner in ("weights/", ""):
        folder = source.path / inner
        if f"{inner}.metadata" in source.names:
            return folder
        # The other one is hidden, and so at times not copied.
        if f"{inner}{METADATA}" in source.names and BACKEND in source.text(folder / METADATA):
            return folder
    return None


def read_published(source: Source, options: ImportOptions) -> PublishedBert:
    """Read a BioNeMo checkpoint of any layout.

    Raises
    ------
    InputError
        Files missing, damaged or not of one model; a gene table that does not fit.
    """
    from cellscribe.families.bionemo import megatron

    if source.find("*.nemo") is None and weights_folder(source) is None:
        return transformer_engine.read_published(source, options)
    # The table first: it is read quickly, so missing files are reported at once.
    table = genes.read_table(source, options, _archive(source))
    found = _read(source)
    core = megatron.to_core(found.tensors)
    sizes = megatron.measure(core, found.where)
    core = megatron.check(core, sizes, len(table), found.where)
    heads = _heads(found, sizes.width)
    _check_norm(found)
    config = ModelConfig(
        vocab_size=len(table),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        intermediate_size=sizes.ffn,
        max_position_embeddings=sizes.positions,
        context=sizes.positions - 1,
        hidden_act="gelu_new",
        head_act="gelu",
        norm="pre",
        layer_norm_eps=_number(found, "layernorm_epsilon", 1e-12),
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.1,
        type_vocab_size=0,
        pad_token_id=table.special("[PAD]"),
        cls_token=True,
    )
    return PublishedBert(
        family="bionemo",
        title=(
            f"BioNeMo Geneformer, {sizes.layers} layers, {sizes.width} wide, {len(table):,} tokens"
        ),
        config=config,
        pooling=Pooling(pool="genes_but_last"),
        tensors=megatron.to_hugging_face(core, len(table), heads, found.where),
        table=table,
        licence=LICENCE,
        origin=ORIGIN,
        notes=_notes(found),
    )


def _archive(source: Source) -> NemoArchive | None:
    path = source.find("*.nemo")
    several = [name for name in source.names if name.endswith(".nemo") and "/" not in name]
    if len(several) > 1:
        raise InputError(f"{source.path}: holds {', '.join(several[:5])}; name one of them")
    return NemoArchive(path) if path is not None else None


def _read(source: Source) -> _Found:
    """Read the tensors, and what the config beside them says."""
    from cellscribe.families.bionemo.distributed_checkpoint import read_distributed
    from cellscribe.families.bionemo.megatron import holds_weights

    if (archive := _archive(source)) is not None:
        weights = archive.weights()
        return _Found(
            tensors={key: tensor for key, tensor in weights.items() if holds_weights(key)},
            stated=yaml_values(archive.text(CONFIG) or ""),
            where=str(archive.path),
        )
    folder = weights_folder(source)
    assert folder is not None  # recognised
    _check_backend(source, folder)
    return _Found(
        tensors=read_distributed(folder, holds_weights),
        stated=_read_context(source, folder),
        where=str(folder),
    )


def _check_backend(source: Source, folder: Path) -> None:
    """Refuse what is distributed in another format than torch's."""
    path = folder / METADATA
    if not path.is_file():
        return
    metadata = source.json(path)
    backend = metadata.get(BACKEND) if isinstance(metadata, dict) else None
    if backend != "torch_dist":
        raise InputError(
            f"{path}: a checkpoint in the format {backend!r}, only torch_dist is read; save it "
            "anew with NeMo, or take the .nemo archive"
        )


def _read_context(source: Source, folder: Path) -> dict[str, str]:
    """Read settings that stand in ``context/``, beside the weights or in their folder.

    ``io.json`` describes Python objects to be built; here it is text, and none is built.
    """
    for context in (folder.parent / "context", folder / "context"):
        if (path := context / "model.yaml").is_file():
            return yaml_values(source.text(path))
        if (path := context / "io.json").is_file():
            return dict(_leaves(source.json(path)))
    return {}


def _leaves(node: Any) -> Iterator[tuple[str, str]]:
    """Settings of an ``io.json``: pairs of a name, however it is wrapped, and a plain value."""
    if isinstance(node, list):
        if len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], dict):
            name = next((name for name in SETTINGS if f"'{name}'" in node[0]), None)
            if name and isinstance(node[1].get("value"), str | int | float):
                yield name, str(node[1]["value"])
        for part in node:
            yield from _leaves(part)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in SETTINGS and isinstance(value, str | int | float):
                yield name, str(value)
            else:
                yield from _leaves(value)


def _number(found: _Found, name: str, default: float) -> float:
    """Read a stated number above zero."""
    try:
        number = float(found.stated.get(name, default))
    except ValueError:
        number = math.nan
    if not 0 < number < MOST:
        raise InputError(
            f"{found.where}: its config says {name}: {first_line(found.stated[name])}, which is no "
            "number that it can have; copy or download it again"
        )
    return number


def _heads(found: _Found, width: int) -> int:
    """How many attention heads: as the config says, else by the width that all published have."""
    from cellscribe.families.bionemo.megatron import HEAD_WIDTH

    stated = _number(found, "num_attention_heads", max(width // HEAD_WIDTH, 1))
    heads = int(stated)
    if heads != stated or heads < 1 or width % heads:
        raise InputError(
            f"{found.where}: {stated:g} attention heads do not divide a width of {width}; config "
            "and weights belong to different models"
        )
    return heads


def _check_norm(found: _Found) -> None:
    """Refuse norms that are not BERT's."""
    kind = found.stated.get("normalization", "layernorm")
    centred = found.stated.get("layernorm_zero_centered_gamma", "false")
    if kind.lower() != "layernorm" or centred.lower() not in ("false", "0", "null"):
        raise InputError(
            f"{found.where}: its config says normalization: {first_line(kind)}, zero-centred: "
            f"{first_line(centred)}; only the plain LayerNorm of all published models is read"
        )


def _notes(found: _Found) -> tuple[str, ...]:
    """List what a user should know of the model."""
    notes = [
        "a cell's vector leaves out its last gene, as published; --pool genes takes them all (of a "
        "cell with one gene, where the published rule has no answer, that gene's vector is given)"
    ]
    stored = {str(t.dtype).removeprefix("torch.") for t in found.tensors.values()} - {"float32"}
    if stored:
        notes.append(f"weights are stored as {', '.join(sorted(stored))}; kept here as float32")
    if "num_attention_heads" not in found.stated:
        notes.append("no config says how many heads there are; taken to be 64 wide each")
    if "relu" in found.stated.get("activation", "").lower():
        notes.append(
            "its config says ReLU; NVIDIA's code computes GELU whatever it says, and so does this"
        )
    return tuple(notes)
