"""Geneformer's published files, with weights by a formula: model folders beside ``geneformer/``.

Names, layout, key names and value types are those of ctheodoris/Geneformer at Hugging Face; sizes
are its own (`FULL`) or small ones (`SMALL`) with the same heads of 64.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.formula import fill
from support.tiny import real_genes

FOLDERS = {"V1": "Geneformer-V1-10M", "V2": "Geneformer-V2-104M"}
DICTIONARIES = {"V1": "geneformer/gene_dictionaries_30m", "V2": "geneformer"}
SUFFIX = {"V1": "gc30M", "V2": "gc104M"}
GIVEN = {"V1": "gc30M", "V2": "gc95M"}
"""Suffix in the folder of published dictionaries; the files of gc95M and gc104M are the same."""
SPECIALS = {"V1": ("<pad>", "<mask>"), "V2": ("<pad>", "<mask>", "<cls>", "<eos>")}
FULL = {
    "V1": {"width": 256, "layers": 6, "heads": 4, "ffn": 512, "positions": 2048},
    "V2": {"width": 768, "layers": 12, "heads": 12, "ffn": 3072, "positions": 4096},
}
SMALL = {
    "V1": {"width": 128, "layers": 3, "heads": 2, "ffn": 256, "positions": 2048},
    "V2": {"width": 128, "layers": 3, "heads": 2, "ffn": 512, "positions": 4096},
}
N_GENES = 60
RETIRED = {"ENSG00000999001": 3, "ENSG00000999002": 3, "OLDNAME": 5}
"""Names in the small mapping dictionary -> which gene they are read as."""


def write_published(
    root: Path,
    version: str,
    *,
    size: str = "small",
    dictionaries: Path | None = None,
    mapping: bool = True,
    bin_file: bool = False,
    classes: int = 0,
    sizes: dict[str, int] | None = None,
) -> Path:
    """Write one model and its dictionaries under `root`; returns the model's folder.

    `dictionaries` is a folder of published ones, else small ones are made; `bin_file` writes
    ``pytorch_model.bin`` as early releases had it, `classes` a fine-tuned cell classifier.
    """
    n_tokens = _write_dictionaries(root, version, dictionaries, mapping)
    shape = {**(SMALL if size == "small" else FULL)[version], **(sizes or {})}
    folder = root / FOLDERS[version]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(version, shape, n_tokens, classes)))
    weights = _weights(n_tokens, shape, classes)
    if bin_file:
        weights["bert.embeddings.position_ids"] = torch.arange(shape["positions"])[None]
        if not classes:
            words = weights["bert.embeddings.word_embeddings.weight"]
            weights["cls.predictions.decoder.weight"] = words
            weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(version: str, shape: dict[str, int], n_tokens: int, classes: int) -> dict[str, Any]:
    dropout = 0.02 if version == "V1" else 0.1
    made_with: dict[str, Any] = (
        {"gradient_checkpointing": False, "transformers_version": "4.6.0"}
        if version == "V1"
        else {
            "classifier_dropout": None,
            "torch_dtype": "float32",
            "transformers_version": "4.44.2",
        }
    )
    return {
        "architectures": ["BertForSequenceClassification" if classes else "BertForMaskedLM"],
        "attention_probs_dropout_prob": dropout,
        "hidden_act": "relu",
        "hidden_dropout_prob": dropout,
        "hidden_size": shape["width"],
        "initializer_range": 0.02,
        "intermediate_size": shape["ffn"],
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": shape["positions"],
        "model_type": "bert",
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["layers"],
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": n_tokens,
        **made_with,
    }


def _weights(n_tokens: int, shape: dict[str, int], classes: int) -> dict[str, torch.Tensor]:
    width, ffn = shape["width"], shape["ffn"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (n_tokens, width),
        "bert.embeddings.position_embeddings.weight": (shape["positions"], width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "bert.embeddings.LayerNorm.weight": (width,),
        "bert.embeddings.LayerNorm.bias": (width,),
    }
    for layer in range(shape["layers"]):
        stem = f"bert.encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value"):
            shapes |= {f"{stem}.{part}.weight": (width, width), f"{stem}.{part}.bias": (width,)}
        for part, (rows, columns) in {
            "attention.output.dense": (width, width),
            "intermediate.dense": (ffn, width),
            "output.dense": (width, ffn),
        }.items():
            shapes |= {f"{stem}.{part}.weight": (rows, columns), f"{stem}.{part}.bias": (rows,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{stem}.{part}.weight": (width,), f"{stem}.{part}.bias": (width,)}
    if classes:
        shapes |= {"bert.pooler.dense.weight": (width, width), "bert.pooler.dense.bias": (width,)}
        shapes |= {"classifier.weight": (classes, width), "classifier.bias": (classes,)}
    else:
        stem = "cls.predictions.transform"
        shapes |= {f"{stem}.dense.weight": (width, width), f"{stem}.dense.bias": (width,)}
        shapes |= {f"{stem}.LayerNorm.weight": (width,), f"{stem}.LayerNorm.bias": (width,)}
        shapes["cls.predictions.bias"] = (n_tokens,)
    # with these, attention is neither flat nor all on one gene
    scale = 2.2 / width**0.5
    return {
        name: fill(name, shape, scale) + float(name.endswith("LayerNorm.weight"))
        for name, shape in shapes.items()
    }


def _write_dictionaries(root: Path, version: str, published: Path | None, mapping: bool) -> int:
    """Copy published dictionaries or make small ones; returns the number of tokens."""
    folder = root / DICTIONARIES[version]
    folder.mkdir(parents=True, exist_ok=True)
    if published is not None:
        kinds = ["token_dictionary", "gene_median_dictionary", "gene_name_id_dict"]
        for kind in [*kinds, "ensembl_mapping_dict"] if mapping else kinds:
            source = published / f"{kind}_{GIVEN[version]}.pkl"
            if source.is_file():
                shutil.copyfile(source, folder / f"{kind}_{SUFFIX[version]}.pkl")
        return len(pickle.loads((folder / f"token_dictionary_{SUFFIX[version]}.pkl").read_bytes()))
    made = small_dictionaries(version)
    for kind, values in made.items():
        if mapping or kind != "ensembl_mapping_dict":
            (folder / f"{kind}_{SUFFIX[version]}.pkl").write_bytes(pickle.dumps(values, protocol=4))
    return len(made["token_dictionary"])


def small_dictionaries(version: str) -> dict[str, dict[str, Any]]:
    """Dictionaries of a few real genes, their values typed as in the published files."""
    ids, symbols = real_genes(N_GENES)
    first = len(SPECIALS[version])
    kind = np.int16 if version == "V1" else int
    tokens: dict[str, Any] = {name: place for place, name in enumerate(SPECIALS[version])}
    tokens |= {gene: kind(first + place) for place, gene in enumerate(ids)}
    medians = {gene: np.float64(1 + (7 * place % 23) / 8) for place, gene in enumerate(ids)}
    mapping = {gene: gene for gene in ids} | {name: ids[place] for name, place in RETIRED.items()}
    mapping["ENSG00000999009"] = "ENSG00000999010"  # of a gene without a token
    return {
        "token_dictionary": tokens,
        "gene_median_dictionary": medians | {"ENSG00000999010": np.float64(1.5)},
        "ensembl_mapping_dict": mapping,
        "gene_name_id_dict": dict(zip(symbols, ids, strict=True)),
    }
