"""Geneformer, V1 and V2: Hugging Face BERT folders that become checkpoints of our own.

The network is BERT, post-norm, and tokens are ranked genes, as in our own models; what differs is
data: gene table and medians (pickled dictionaries), which names are read as which gene, special
tokens (none in V1, <cls> and <eos> in V2) and where a cell's vector is read (the second to last
layer: V1 the mean over the genes, V2 at <cls>).

Source: ctheodoris/Geneformer (Apache-2.0), tokenizer and embedding extractor.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from cellscribe.config import ImportOptions, ModelConfig, Pooling, from_mapping
from cellscribe.config.checked import check_value, hints_of
from cellscribe.errors import InputError
from cellscribe.families.base import PublishedBert, PublishedHead
from cellscribe.families.class_names import class_names, uncalibrated
from cellscribe.families.geneformer.dictionaries import Dictionaries, read_dictionaries
from cellscribe.families.shards import WEIGHTS, read_weights, without_prefixes
from cellscribe.families.source import AGAIN, Source
from cellscribe.families.weights import as_float, check_names
from cellscribe.model.metadata import OWN_FIELDS
from cellscribe.model.weights import check_finite

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
HEAD = "cls.predictions."
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Copies that some files hold; they must be equal to the tensors that they are tied to."""
PLAIN_BERT: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "pruned_heads": (None, {}),
    "quantization_config": (None, {}),
    "tie_word_embeddings": (None, True),
}
"""Settings of `transformers` that make another network of a BERT -> values that do not."""
LEFT_OUT = ("bert.embeddings.position_ids",)
OTHER_HEADS = ("bert.pooler.", "classifier.", "cls.seq_relationship.")
CLASSIFIER = ("classifier.weight", "classifier.bias")
POOLER = "bert.pooler.dense.weight"
OF_GENES = "BertForTokenClassification"
LICENCE = "Apache-2.0, as its repository states"
ORIGIN = "Geneformer, C. Theodoris et al.: https://huggingface.co/ctheodoris/Geneformer"
OTHERS = {
    "mouse": "others than Geneformer's makers, in their layout; Mouse-Geneformer has it "
    "(https://github.com/machine-perception-robotics-group/Mouse-Geneformer)"
}
"""Origin of models with genes of other species."""


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
    if type(n_tokens) is not int or n_tokens < 1:
        raise InputError(f"{config_path}: no vocab_size; copy or download it again")
    found = read_dictionaries(source.folder, options.genes, n_tokens)
    config = model_config(data, found, str(config_path))
    weights = read_weights(weights_path)
    head, told = read_classifier(weights, data, options.labels, str(config_path))
    pooling = Pooling(hidden_layer=-2, pool="cls" if config.cls_token else "genes")
    if head is not None:
        published = f"--pool {pooling.pool} --hidden-layer {pooling.hidden_layer}"
        told.append(f"vectors are those that its classifier reads; {published} gives Geneformer's")
        pooling = (
            Pooling(pool="pooler") if head.of == "cells" else replace(pooling, hidden_layer=-1)
        )
        config = replace(config, pooler=head.of == "cells")
    tensors, notes = bert_tensors(weights, config, str(weights_path))
    notes += told
    if not found.has_mapping:
        notes.append(
            "there is no ensembl_mapping_dict*.pkl beside the token dictionary: Ensembl ids are "
            "read as they stand, retired ones are unknown (as in the first release)"
        )
    notes.append(f"gene dictionaries: {', '.join(found.files)}")
    version = f"Geneformer {'V2' if config.cls_token else 'V1'}"
    licence, origin = LICENCE, ORIGIN
    if found.species != "human":
        genes = f"{found.species} genes" if found.species else "names of its own for genes"
        version = f"A model like {version}, with {genes}"
        licence = "not stated in the files; see where you have them from"
        origin = OTHERS.get(found.species, "others than Geneformer's makers, in their layout")
    return PublishedBert(
        family="geneformer",
        title=(
            f"{version}, {config.num_hidden_layers} layers, "
            f"{config.hidden_size} wide, {n_tokens:,} tokens, {config.context:,} genes a cell"
        ),
        config=config,
        pooling=pooling,
        tensors=tensors,
        table=found.vocabulary,
        licence=licence,
        origin=origin,
        notes=tuple(notes),
        head=head,
    )


def _files(source: Source) -> tuple[Path | None, Path | None]:
    """Configuration and weights, by name."""
    if source.is_folder:
        return source.find("config.json"), source.find(*WEIGHTS)
    return source.find_sibling("config.json"), source.path if source.path.name in WEIGHTS else None


def model_config(data: Mapping[str, Any], found: Dictionaries, where: str) -> ModelConfig:
    """Shape of the network; context and special tokens follow from the dictionary."""
    known = get_args(get_type_hints(ModelConfig)["hidden_act"])
    if data.get("hidden_act") not in known:
        raise InputError(
            f"{where}: hidden_act {data.get('hidden_act')!r:.40} is none of {', '.join(known)}; it "
            "is not a published Geneformer"
        )
    for key, fine in PLAIN_BERT.items():
        if data.get(key) not in fine:
            raise InputError(
                f"{where}: {key} {data[key]!r:.40}; only an encoder with learned absolute "
                f"positions, as Geneformer is, can be imported ({key} {fine[1]!r})"
            )
    own = {*OWN_FIELDS, "pad_token_id"}
    names = {f.name for f in dataclasses.fields(ModelConfig)} - own
    missing = sorted(name for name in names if name not in data)
    if missing:
        raise InputError(f"{where}: {', '.join(missing[:5])} missing; copy or download it again")
    try:
        given = {name: check_value(hints_of(ModelConfig)[name], data[name], name) for name in names}
    except InputError as error:
        raise InputError(f"{where}: {error}; {AGAIN}") from None
    token_of = found.vocabulary.token_of
    specials = {"cls_token": "<cls>" in token_of, "sep_token": "<eos>" in token_of}
    fields = given | specials
    fields["pad_token_id"] = token_of["<pad>"]
    positions = fields["max_position_embeddings"]
    fields["context"] = positions - sum(specials.values())
    return from_mapping(ModelConfig, fields, where)


def read_classifier(
    published: Mapping[str, torch.Tensor], data: Mapping[str, Any], names: Path | None, where: str
) -> tuple[PublishedHead | None, list[str]]:
    """Classifier of cells or of genes that the weights hold, and notes on it.

    Parameters
    ----------
    published
        All tensors.
    data, where
        ``config.json`` and its path.
    names
        File of the names of the classes.

    Raises
    ------
    InputError
        Its tensors do not fit, or the names of its classes do not.
    """
    weights = _present_names(without_prefixes(published, where), where)
    if not any(name in weights for name in CLASSIFIER):
        return None, []
    architectures = data.get("architectures")
    is_of_genes = POOLER not in weights
    if isinstance(architectures, list) and (OF_GENES in architectures) != is_of_genes:
        raise InputError(
            f"{where}: architectures {architectures!r:.80}, but the weights are those of "
            f"{'genes' if is_of_genes else 'cells'} (with a pooler: of cells); {AGAIN}"
        )
    tensors = [weights.get(name) for name in CLASSIFIER]
    weight, bias = (None if x is None else as_float("classifier", x, where) for x in tensors)
    width = data.get("hidden_size")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InputError(f"{where}: classifier.weight and classifier.bias do not fit; {AGAIN}")
    if weight.shape[1] != width:
        raise InputError(
            f"{where}: its classifier reads {weight.shape[1]:,} values, hidden_size is {width}; "
            f"{AGAIN}"
        )
    labels, notes = class_names(len(weight), data.get("id2label"), names, where)
    of: Literal["cells", "genes"] = "genes" if is_of_genes else "cells"
    notes.append(uncalibrated(of, labels))
    return PublishedHead(of=of, labels=labels, weight=weight, bias=bias), notes


def bert_tensors(
    published: Mapping[str, torch.Tensor], config: ModelConfig, where: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Bring weights under the names of our checkpoints; also returns notes for the user."""
    import torch

    weights = _present_names(without_prefixes(published, where), where)
    notes: list[str] = []
    _check_depth(weights, config, where)
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
        if tied is not None:
            check_finite({copy: tied, original: weights.get(original, tied)}, where)
        if tied is not None and not torch.equal(tied, weights.setdefault(original, tied)):
            raise InputError(
                f"{where}: {copy} differs from {original}; Geneformer's are one tensor, these "
                "weights are of another model"
            )
    others = [n for n in weights if n.startswith(OTHER_HEADS) and n not in (*wanted, *CLASSIFIER)]
    if others:
        notes.append(f"left out, no part of encoder and masked-gene head: {', '.join(others[:5])}")
    for name in (*others, *LEFT_OUT, *CLASSIFIER):
        weights.pop(name, None)
    check_names(weights, wanted, where)
    return {name: as_float(name, weights[name], where) for name in wanted}, notes


def _present_names(weights: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Give tensors the names that they have today."""
    # a whole model that is the part `bert` of another one
    doubled = any(name.startswith("bert.bert.") for name in weights)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        present = _present_name(name.removeprefix("bert.") if doubled else name)
        if present in found:
            raise InputError(f"{where}: holds {present} under two names; {AGAIN}")
        found[present] = tensor
    return found


def _present_name(name: str) -> str:
    """Current name of a tensor: early files have gamma and beta, bare encoders no ``bert.``."""
    stem, _, leaf = name.rpartition(".")
    if stem.endswith("LayerNorm"):
        leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
    name = f"{stem}.{leaf}" if stem else leaf
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _check_depth(weights: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Refuse a configuration that is deeper than the weights, before anything is made of it."""
    found = (re.match(r"bert\.encoder\.layer\.([0-9]{1,6})\.", name) for name in weights)
    n_layers = len({match[1] for match in found if match})
    if n_layers < config.num_hidden_layers:
        raise InputError(
            f"{where}: has {n_layers:,} layers, config.json says num_hidden_layers "
            f"{config.num_hidden_layers:,}; weights and configuration belong to different models"
        )


def _wanted(config: ModelConfig) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, without their values."""
    import torch

    from cellscribe.model.checkpoint import to_hugging_face
    from cellscribe.model.encoder import MaskedGeneModel

    with torch.device("meta"):
        return to_hugging_face(MaskedGeneModel(config).state_dict())
