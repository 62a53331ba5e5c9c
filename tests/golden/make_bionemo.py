"""Write ``bionemo.json``: what BioNeMo's own code makes of checkpoints of formula weights.

    git clone https://github.com/NVIDIA/bionemo-framework FOLDER && git -C FOLDER checkout aeed0de
    PYTHONPATH=src:tests python tests/golden/make_bionemo.py FOLDER

Needs torch, megatron-core, and the real cells and medians of ``../shared``. Of BioNeMo these run as
published: `process_item` (tokens), `GeneformerConfig` and `MegatronBioBertModel` (network and cell
vectors) over Megatron-core's local layers, on the CPU in float32; the mapping of NeMo 1 names, and
the packing of the export for Transformer Engine. What is not installed (NeMo, Lightning,
Transformer Engine, ...) is stood in for by empty modules, and what asks for CUDA by the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import pickle
import sys
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import anndata
import numpy as np
import torch
from families import published_bionemo as made
from scipy.sparse import csr_matrix

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL = [
    ("pbmc3k_10x.h5ad", 0),
    ("pbmc3k_10x.h5ad", 4),
    ("pancreas_baron_human_came.h5ad", 0),
    ("lung_hlca_query_delorey.h5ad", 3),
]
ABSENT = """
    nemo lightning pytorch_lightning torchmetrics transformer_engine accelerate bionemo.scdl
    bionemo.core.data.load boto3 botocore infra_bionemo ngcsdk omegaconf platformdirs pooch scanpy
    wandb webdataset
""".split()  # noqa: SIM905
HOW = (
    "github.com/NVIDIA/bionemo-framework at aeed0de (sub-packages bionemo-core, -llm, -geneformer, "
    "recipe models/geneformer), megatron-core {megatron}, torch {torch}, one CPU thread, float32. "
    "Tokens: process_item, max_len = positions, nothing masked. Network: "
    "GeneformerConfig with bert_layer_local_spec, bias_activation_fusion on (GELU by tanh), "
    "persist_layer_norm, masked_softmax_fusion and bias_dropout_fusion off (no CPU kernels), "
    "include_embeddings and include_hiddens on; batches padded with [PAD] to their longest cell. "
    "NeMo 1 names: nemo1_to_nemo2_biobert_key_mapping. Export: mapping, _pack_qkv_weight and "
    "_pack_qkv_bias of convert.py."
)


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives an empty module for what is not installed; no code that runs here asks it for work."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == root or name.startswith(f"{root}.") for root in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []

        def attribute(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if name in ("DataT", "ReductionT", "LossType"):
                return typing.TypeVar(name)
            if name == "state_transform":  # a decorator
                return lambda **kwargs: lambda function: function
            if name == "io":
                return self.create_module(types.SimpleNamespace(name=f"{spec.name}.io"))
            if name[0].isupper():
                return type(name, (), {"__class_getitem__": classmethod(lambda cls, key: cls)})
            return MagicMock()

        module.__getattr__ = attribute  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def prepare(clone: Path) -> None:
    """Make BioNeMo importable, and Megatron-core content with a CPU."""
    warnings.simplefilter("ignore")
    # Before anything pretends that Transformer Engine is here.
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.bert import bert_layer_specs, bert_model  # noqa: F401

    sys.meta_path.insert(0, Absent())
    for part in ("core", "llm", "geneformer"):
        sys.path.insert(0, str(clone / f"sub-packages/bionemo-{part}/src"))
    torch.set_num_threads(1)
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment]
    tensor_parallel.get_cuda_rng_tracker().fork = lambda *names: contextlib.nullcontext()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29655")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


def tokenise(
    counts: csr_matrix, genes: Sequence[str], medians: Mapping[str, float], max_len: int
) -> list[list[int]]:
    """Tokens of each cell, [CLS] in front."""
    from bionemo.geneformer.data.singlecell.dataset import process_item
    from bionemo.geneformer.tokenizer.gene_tokenizer import GeneTokenizer

    tokenizer = GeneTokenizer.from_medians_and_genes_dicts(medians, {})
    none = {"mask_prob": 0, "mask_token_prob": 0, "random_token_prob": 0}
    items = [
        process_item(
            row.data.astype(float),
            row.indices,
            np.array(genes),
            tokenizer,
            gene_median=medians,
            rng=np.random.default_rng(0),
            max_len=max_len,
            **none,
        )
        for row in counts
    ]
    return [item["text"].tolist() for item in items]


def network(shape: made.Shape, n_tokens: int) -> Any:
    """BioNeMo's network with the formula's weights."""
    from bionemo.geneformer.api import GeneformerConfig
    from bionemo.llm.model.biobert import model as biobert
    from bionemo.llm.model.biobert.transformer_specs import BiobertSpecOption

    config = GeneformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.width,
        ffn_hidden_size=shape.ffn,
        num_attention_heads=shape.heads,
        seq_length=shape.positions,
        biobert_spec_option=BiobertSpecOption.bert_layer_local_spec,
        params_dtype=torch.float32,
        use_cpu_initialization=True,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        include_embeddings=True,
        include_hiddens=True,
    )
    assert config.bias_activation_fusion
    # NeMo's: up to the next multiple of make_vocab_size_divisible_by
    biobert.get_vocab_size = lambda config, size, divisor: made.padded(size)
    model = config.configure_model(types.SimpleNamespace(vocab_size=n_tokens)).eval()
    keys = model.load_state_dict(made.core_weights(shape, n_tokens), strict=False)
    assert not keys.unexpected_keys, keys
    assert all("_extra_state" in key for key in keys.missing_keys), keys
    return model


@torch.no_grad()
def run(model: Any, cells: list[list[int]]) -> Any:
    """BioNeMo's output for some cells, padded to the longest."""
    longest = max(map(len, cells))
    ids = torch.tensor([cell + [2] * (longest - len(cell)) for cell in cells])
    return model(
        ids, (torch.arange(longest) < torch.tensor([len(c) for c in cells])[:, None]).int()
    )


def short(values: torch.Tensor) -> Any:
    """Numbers with the digits that float32 has; NaN as null."""
    if values.ndim > 1:
        return [short(row) for row in values]
    return [None if x != x else float(f"{x:.7g}") for x in values.tolist()]


def made_cells() -> dict[str, Any]:
    shape, medians = made.SHAPES["small"], made.made_medians()
    tokens = tokenise(made.made_cells(), made.MADE_GENES, medians, shape.positions)
    n_tokens = len(made.SPECIALS) + len(medians)
    out = run(network(shape, n_tokens), tokens)
    ends = [[0, len(cell) - 1] for cell in tokens]
    return {
        "tokens": tokens,
        "embeddings": short(out["embeddings"]),
        "hidden at [CLS] and last gene": [
            short(hidden[places]) for hidden, places in zip(out["hidden_states"], ends, strict=True)
        ],
        # of the first cells; the network gives [L, B, V]
        "logits at [CLS]": short(out["token_logits"][0, :3, :n_tokens]),
    }


def real_cells() -> dict[str, Any]:
    shape = made.SHAPES["full"]
    medians = pickle.loads((SHARED / "genes/gene_median_dictionary_gc30M.pkl").read_bytes())
    medians = {gene: float(value) for gene, value in medians.items()}
    model = network(shape, len(made.SPECIALS) + len(medians))
    cells = []
    for name, row in REAL:
        data = anndata.read_h5ad(SHARED / "data" / name)
        counts = csr_matrix(data.X[[row]])
        counts.eliminate_zeros()
        genes = data.var["ensembl_id"].astype(str)
        (tokens,) = tokenise(counts, list(genes), medians, shape.positions)
        (vector,) = run(model, [tokens])["embeddings"]
        cells.append({"file": name, "row": row, "tokens": tokens, "embedding": short(vector)})
    return {"cells": cells}


def names_of_nemo_1() -> dict[str, str]:
    """BioNeMo's own names for the tensors of an archive."""
    from bionemo.llm.utils.weight_utils import nemo1_to_nemo2_biobert_key_mapping

    weights = made.core_weights(made.SHAPES["small"], 305)
    names = [made.nemo_1_name(name) for name in weights]
    return {
        name: nemo1_to_nemo2_biobert_key_mapping(name, new_model_prefix="", te_mapping=True)
        for name in names
    }


def saved_names(model: Any) -> dict[str, list[int]]:
    """Keys and shapes under which Megatron-core's saver would keep the network's tensors."""
    return {
        f"module.{part.key}": list(part.global_shape)
        for part in model.sharded_state_dict().values()
        if "_extra_state" not in part.key
    }


def export(clone: Path) -> dict[str, str]:
    """SHA-256 of each tensor of an export, by its name, of formula weights (`engine_source`)."""
    sys.path.insert(0, str(clone / "bionemo-recipes/models/geneformer/src"))
    stand_in = types.ModuleType("geneformer")
    stand_in.__path__ = [str(clone / "bionemo-recipes/models/geneformer/src/geneformer")]
    stand_in.BertForMaskedLM = stand_in.TEBertConfig = object
    sys.modules["geneformer"] = stand_in
    from geneformer import convert

    weights = made.engine_source()
    context = types.SimpleNamespace(
        target=types.SimpleNamespace(config=types.SimpleNamespace(num_attention_heads=2))
    )
    out = {}
    for name, tensor in weights.items():
        layer = name.split(".")[3] if ".layer." in name else ""
        if "attention.self.query" in name:
            thirds = [weights[name.replace("query", kind)] for kind in ("query", "key", "value")]
            leaf = name.rpartition(".")[2]
            pack = convert._pack_qkv_weight if leaf == "weight" else convert._pack_qkv_bias
            key = f"bert.encoder.layer.{layer}.self_attention.qkv.{leaf}"
            out[key] = pack(context, *thirds)
        elif "attention.self" not in name:
            pattern = name.replace(f".layer.{layer}.", ".layer.*.") if layer else name
            out[convert.mapping[pattern].replace("*", layer)] = tensor
    return {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in sorted(out.items())
    }


def main(clone: Path) -> None:
    prepare(clone)
    how = HOW.format(megatron=version("megatron-core"), torch=torch.__version__)
    shape = made.SHAPES["small"]
    golden = {
        "how": how,
        "made": made_cells(),
        "real": real_cells(),
        "nemo 1 names": names_of_nemo_1(),
        "saved": saved_names(network(shape, 305)),
        "export": export(clone),
    }
    out = Path(__file__).with_name("bionemo.json")
    out.write_text(json.dumps(golden, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
