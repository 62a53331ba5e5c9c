"""A checkpoint as the folder that `transformers` and Geneformer's own tools open.

``config.json`` and ``model.safetensors`` are BERT's; the four dictionaries are pickles of
plain text and numbers, because those tools read nothing else.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from cellscribe.cells.gene_names.vocabulary import ALSO_CALLED, Vocabulary
from cellscribe.config import ModelConfig, Pooling
from cellscribe.errors import InputError
from cellscribe.families.geneformer.dictionaries import MAPPING, MEDIANS, NAMES, TOKENS
from cellscribe.families.geneformer.gene_ids import mapping_of
from cellscribe.lease import claim
from cellscribe.model.checkpoint import CELL_HEAD, WEIGHTS, Checkpoint, to_hugging_face
from cellscribe.model.metadata import config_to_json
from cellscribe.writing import writing

PICKLE_PROTOCOL = 4
"""Protocol of the published files."""


def export_hugging_face(checkpoint: Checkpoint, out: Path, *, overwrite: bool = False) -> None:
    """Write a checkpoint in Hugging Face's layout, with Geneformer's dictionaries.

    Parameters
    ----------
    checkpoint
        From `load_checkpoint`.
    out
        Folder that is written; it appears whole or not at all.
    overwrite
        Replace `out` if it exists.

    Raises
    ------
    InputError
        The network is none that ``BertForMaskedLM`` can be, or `out` exists or cannot be written.
    """
    from safetensors.torch import save_file

    check_bert(checkpoint.config, checkpoint.name)
    state = checkpoint.model.state_dict()
    # no other tool knows the cell head: there a cell's vector is the mean over its genes
    weights = to_hugging_face({k: v for k, v in state.items() if not k.startswith(CELL_HEAD)})
    dictionaries = published_dictionaries(checkpoint.vocabulary, checkpoint.config)
    with claim(out, overwrite=overwrite, is_folder=True), writing(out) as partial:
        partial.mkdir()
        (partial / "config.json").write_text(
            json.dumps(bert_config(checkpoint.config), indent=2) + "\n", encoding="utf-8"
        )
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            partial / WEIGHTS,
            metadata={"format": "pt"},
        )
        (partial / WEIGHTS).chmod(0o644)
        for name, values in dictionaries.items():
            with (partial / f"{name}.pkl").open("wb") as file:
                pickle.dump(values, file, protocol=PICKLE_PROTOCOL)
        (partial / "README.md").write_text(_readme(checkpoint), encoding="utf-8")


def check_bert(config: ModelConfig, name: str) -> None:
    """Refuse a network that ``BertForMaskedLM`` cannot be.

    Raises
    ------
    InputError
        Norms inside the branches, no token types, or a head with an activation of its own.
    """
    if config.norm != "post":
        raise InputError(
            f"{name} has its norms before the branches (norm = pre), which Hugging Face's BERT has "
            "not; it cannot be exported, use its own directory"
        )
    if not config.type_vocab_size or config.head_act not in (None, config.hidden_act):
        raise InputError(
            f"{name} has no token types or another activation in its head, which Hugging Face's "
            "BERT cannot be told; it cannot be exported, use its own directory"
        )


def bert_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of ``BertForMaskedLM``, without keys of ours."""
    fields = config_to_json(config, {})
    del fields["cellscribe"]
    return {**fields, "position_embedding_type": "absolute"}


def published_dictionaries(vocabulary: Vocabulary, config: ModelConfig) -> dict[str, Any]:
    """Geneformer's dictionaries by the stems of their files, in plain text, ints and floats.

    Special tokens get Geneformer's names, but [CLS] and [SEP] only if the model reads them, because
    the tools take a name in the dictionary for a token in the data.
    """
    read = {"[CLS]": config.cls_token, "[SEP]": config.sep_token}
    specials = {
        name: ALSO_CALLED[name] if read.get(name, True) and name in ALSO_CALLED else name
        for name in vocabulary.ids[: vocabulary.n_special]
    }
    names = [specials.get(name, name) for name in vocabulary.ids]
    genes = range(vocabulary.n_special, len(vocabulary))
    symbols: dict[str, str] = {}
    for token in genes:
        if vocabulary.symbols[token]:
            symbols.setdefault(vocabulary.symbols[token], names[token])
    return {
        TOKENS: {name: token for token, name in enumerate(names)},
        MEDIANS: {names[token]: float(vocabulary.medians[token]) for token in genes},
        MAPPING: mapping_of(vocabulary),
        NAMES: symbols,
    }


def _readme(checkpoint: Checkpoint) -> str:
    config, pooling = checkpoint.config, checkpoint.pooling
    n_special = config.cls_token + config.sep_token
    both = config.cls_token and config.sep_token
    if n_special == 1:
        tokenizer = (
            "Its tokeniser puts both <cls> and <eos> around a cell or neither; this model reads "
            "one of them, so tokenise with `cellscribe tokenize`."
        )
    else:
        tokenizer = f"""\
    TranscriptomeTokenizer(
        model_input_size={config.context + n_special}, special_token={both},
        gene_median_file="{MEDIANS}.pkl", token_dictionary_file="{TOKENS}.pkl",
        gene_mapping_file="{MAPPING}.pkl",
    )"""
    return f"""\
# {checkpoint.name}, in Hugging Face's layout

Exported by cellscribe from weights {checkpoint.hash}, gene table {checkpoint.vocabulary.hash}.
`transformers.BertForMaskedLM.from_pretrained(folder)` opens it; so do Geneformer's own tools, with
the dictionaries of this folder (pickles of plain text and numbers):

{tokenizer}

    EmbExtractor({_extractor(pooling)}, token_dictionary_file="{TOKENS}.pkl")
{_without_head(config)}"""


def _without_head(config: ModelConfig) -> str:
    """Say what is not exported, if the model has a cell head."""
    if not config.cell_vector_size:
        return ""
    return """
The model's cell head is not here, as other tools have none: their vectors are the mean over a
cell's genes, and cellscribe's own are better. Keep the model's own directory for those.
"""


def _extractor(pooling: Pooling) -> str:
    """Arguments of Geneformer's extractor for a model's own rule; its -1 is our -2."""
    mode = "cls" if pooling.pool == "cls" else "cell"
    return f'emb_mode="{mode}", emb_layer={pooling.hidden_layer + 1}'
