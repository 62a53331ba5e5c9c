"""Geneformer, V1 and V2: Hugging Face BERT folders that become checkpoints of our own.

The network is BERT, post-norm, and tokens are ranked genes, as in our own models; what differs is
data: gene table and medians (pickled dictionaries), which names are read as which gene, special
tokens (none in V1, <cls> and <eos> in V2) and where a cell's vector is read (the second to last
layer: V1 the mean over the genes, V2 at <cls>).

Source: ctheodoris/Geneformer (Apache-2.0), tokenizer and embedding extractor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from cellscribe.config import ImportOptions, ModelConfig, Pooling, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.base import PublishedBert
from cellscribe.families.geneformer.dictionaries import Dictionaries, read_dictionaries
from cellscribe.families.source import Source
from cellscribe.families.unpickle import read_tensors, read_torch
from cellscribe.families.weights import check_names
from cellscribe.model.metadata import OWN_FIELDS

if TYPE_CHECKING:
    import torch

WANTS = (
    "Geneformer: a folder with config.json and model.safetensors or pytorch_model.bin; its "
    "token_dictionary*.pkl and gene_median_dictionary*.pkl there, in geneformer/ beside it, or "
    "in --genes"
)
POOLS = {
    "cls": "the second to last hidden layer at <cls>, as published for V2",
    "genes": "mean of the second to last hidden layer over a cell's genes, as published for V1",
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HEAD = "cls.predictions."
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Copies that some files hold; they must be equal to the tensors that they are tied to."""
LEFT_OUT = ("bert.embeddings.position_ids",)
OTHER_HEADS = ("bert.pooler.", "classifier.", "cls.seq_relationship.")
LICENCE = "Apache-2.0, as its repository states"
ORIGIN = "Geneformer, C. Theodoris et al.: https://huggingface.co/ctheodoris/Geneformer"


def recognise(source: Source) -> bool:
    """Whether it is a BERT folder (or its file of weights) in Hugging Face's own layout."""
    config, weights = _files(source)
    if config is None or weights is None:
        return False
    data = source.json(config)
    return (
        isinstance(data, dict)
        and data.get("model_type") == "bert"
        # exports for Transformer Engine name their weights otherwise; ours need no import
        and not any(key in data for key in ("use_te_layers", "auto_map", "cellscribe"))
    )


def read_published(source: Source, options: ImportOptions) -> PublishedBert:
    """Read weights, shape and gene dictionaries of a published model.

    Parameters
    ----------
    source
        Source that `recognise` accepted.
    options
        ``genes``: folder of the dictionaries, or the token dictionary.

    Raises
    ------
    InputError
        Files missing or damaged, dictionaries of another model, tensors missing, left over or of
        another shape.
    """
    config_path, weights_path = _files(source)
    assert config_path is not None
    assert weights_path is not None
    data = source.json(config_path)
    n_tokens = data.get("vocab_size")
    if not isinstance(n_tokens, int):
        raise InputError(f"{config_path}: no vocab_size; copy or download it again")
    found = read_dictionaries(source.folder, options.genes, n_tokens)
    config = model_config(data, found, str(config_path))
    is_bin = weights_path.suffix == ".bin"
    weights = read_torch(weights_path) if is_bin else read_tensors(weights_path)
    tensors, notes = bert_tensors(weights, config, str(weights_path))
    pooling = Pooling(hidden_layer=-2, pool="cls" if config.cls_token else "genes")
    if not found.has_mapping:
        notes.append(
            "there is no ensembl_mapping_dict*.pkl beside the token dictionary: Ensembl ids are "
            "read as they stand, retired ones are unknown (as in the first release)"
        )
    notes.append(f"gene dictionaries: {', '.join(found.files)}")
    return PublishedBert(
        family="geneformer",
        title=(
            f"Geneformer {'V2' if config.cls_token else 'V1'}, {config.num_hidden_layers} layers, "
            f"{config.hidden_size} wide, {n_tokens:,} tokens, {config.context:,} genes a cell"
        ),
        config=config,
        pooling=pooling,
        tensors=tensors,
        table=found.vocabulary,
        licence=LICENCE,
        origin=ORIGIN,
        notes=tuple(notes),
    )


def _files(source: Source) -> tuple[Path | None, Path | None]:
    """Configuration and weights, by name."""
    if source.is_folder:
        return source.find("config.json"), source.find(*WEIGHTS)
    return source.find_sibling("config.json"), source.path if source.path.name in WEIGHTS else None


def model_config(data: Mapping[str, Any], found: Dictionaries, where: str) -> ModelConfig:
    """Shape of the network; context and special tokens follow from the dictionary."""
    hints = get_type_hints(ModelConfig)
    if data.get("hidden_act") not in get_args(hints["hidden_act"]):
        known = ", ".join(get_args(hints["hidden_act"]))
        raise InputError(
            f"{where}: hidden_act {data.get('hidden_act')!r} is none of {known}; it is not a "
            "published Geneformer"
        )
    if data.get("position_embedding_type", "absolute") != "absolute" or data.get("is_decoder"):
        raise InputError(
            f"{where}: not an encoder with learned absolute positions, as Geneformer is"
        )
    own = {*OWN_FIELDS, "pad_token_id"}
    names = {f.name for f in dataclasses.fields(ModelConfig)} - own
    missing = sorted(name for name in names if name not in data)
    if missing:
        raise InputError(f"{where}: {', '.join(missing[:5])} missing; copy or download it again")
    token_of = found.vocabulary.token_of
    specials = {"cls_token": "<cls>" in token_of, "sep_token": "<eos>" in token_of}
    fields = {name: data[name] for name in names} | specials
    fields["pad_token_id"] = token_of["<pad>"]
    positions = fields["max_position_embeddings"]
    if isinstance(positions, int):
        fields["context"] = positions - sum(specials.values())
    return from_mapping(ModelConfig, fields, where)


def bert_tensors(
    published: Any, config: ModelConfig, where: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Bring weights under the names of our checkpoints; also returns notes for the user."""
    import torch

    if not isinstance(published, dict) or not all(
        isinstance(value, torch.Tensor) for value in published.values()
    ):
        raise InputError(f"{where}: not a state dict of tensors; copy or download it again")
    weights = {_present_name(name): value for name, value in published.items()}
    notes: list[str] = []
    wanted = _wanted(config)
    if not any(name.startswith(HEAD) for name in weights):
        absent = {name: tensor for name, tensor in wanted.items() if name.startswith(HEAD)}
        weights.update({name: torch.zeros(tensor.shape) for name, tensor in absent.items()})
        notes.append(
            "the weights have no masked-gene head (a classifier's): it is zeros here; embed with "
            "it or fine-tune it, but ask it for no masked genes and train nothing on from it"
        )
    for copy, original in TIED.items():
        tied = weights.pop(copy, None)
        if tied is not None and not torch.equal(tied, weights.setdefault(original, tied)):
            raise InputError(
                f"{where}: {copy} differs from {original}; Geneformer's are one tensor, these "
                "weights are of another model"
            )
    others = [name for name in weights if name.startswith(OTHER_HEADS)]
    if others:
        notes.append(f"left out, no part of encoder and masked-gene head: {', '.join(others[:5])}")
    for name in (*others, *LEFT_OUT):
        weights.pop(name, None)
    check_names(weights, wanted, where)
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise InputError(
                f"{where}: {name} is quantised ({tensor.dtype}); import the full weights"
            )
    return {name: weights[name].float().contiguous() for name in wanted}, notes


def _present_name(name: str) -> str:
    """Current name of a tensor: early files have gamma and beta, bare encoders no ``bert.``."""
    stem, _, leaf = name.rpartition(".")
    if stem.endswith("LayerNorm"):
        leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
    name = f"{stem}.{leaf}" if stem else leaf
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _wanted(config: ModelConfig) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, without their values."""
    import torch

    from cellscribe.model.checkpoint import to_hugging_face
    from cellscribe.model.encoder import MaskedGeneModel

    with torch.device("meta"):
        return to_hugging_face(MaskedGeneModel(config).state_dict())
