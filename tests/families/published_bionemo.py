"""BioNeMo's Geneformer in its published layouts, weights by formula, and cells to read with it.

``write_nemo``: a NeMo 1 archive. ``write_nemo_2``: a BioNeMo 2 folder, saved by torch's own
distributed checkpoint, layers stacked as Megatron-core's saver stacks them, with the optimizer
tensors and objects that lie between the weights. ``write_transformer_engine``: NVIDIA's export of
Geneformer. Weights have the same numbers in every layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.formula import fill
from scipy.sparse import csr_matrix

SPECIALS = ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UKW]")


@dataclass(frozen=True)
class Shape:
    """Size of a checkpoint."""

    layers: int
    width: int
    heads: int
    ffn: int
    positions: int


SHAPES = {
    "small": Shape(layers=2, width=128, heads=2, ffn=192, positions=96),
    "full": Shape(layers=6, width=256, heads=4, ffn=512, positions=2048),
    "106M": Shape(layers=12, width=768, heads=12, ffn=3072, positions=2048),
}
MADE_GENES = tuple(f"ENSG9{place:010d}" for place in range(300))
MODEL_YAML = """\
_target_: bionemo.llm.model.biobert.lightning.BioBertLightningModule
config:
  _target_: bionemo.geneformer.api.GeneformerConfig
  activation_func:
    _call_: false
    _target_: torch.nn.functional.gelu
  ffn_hidden_size: {ffn}
  hidden_size: {width}
  layernorm_epsilon: 1.0e-12
  layernorm_zero_centered_gamma: false
  normalization: LayerNorm
  num_attention_heads: {heads}
  num_layers: {layers}
  seq_length: {positions}
"""
NEMO_1_YAML = """\
name: geneformer
data:
  medians_file: nemo:{medians}
model:
  activation: gelu
seq_length: {positions}
max_position_embeddings: ${{.seq_length}}
num_layers: {layers}
hidden_size: {width}
ffn_hidden_size: {ffn} # usually 4 * hidden_size
num_attention_heads: {heads}
normalization: layernorm
layernorm_epsilon: 1.0e-12
make_vocab_size_divisible_by: 128
tokenizer:
  library: geneformer
  vocab_file: nemo:{vocabulary}
"""
TO_NEMO_1 = {
    "embedding.": "model.language_model.embedding.",
    "encoder.": "model.language_model.encoder.",
    "lm_head.dense": "model.lm_head.dense",
    "lm_head.layer_norm": "model.lm_head.layernorm",
    "output_layer.bias": "model.lm_head.bias",
    "self_attention.linear_qkv": "self_attention.query_key_value",
    "self_attention.linear_proj": "self_attention.dense",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "mlp.linear_fc1": "mlp.dense_h_to_4h",
    "mlp.linear_fc2": "mlp.dense_4h_to_h",
}

SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How archives are unpacked; Python 3.11.0 to 3.11.3 know no filters."""


def made_medians() -> dict[str, float]:
    """Medians of the made-up genes, in token order; a few are equal, so that ranks tie."""
    values = np.exp2(4 * fill("medians", (len(MADE_GENES),), 1.0).double().numpy())
    values[20:24] = values[20]
    return dict(zip(MADE_GENES, values.tolist(), strict=True))


def padded(n_tokens: int) -> int:
    """Rows that Megatron stores for so many tokens."""
    return math.ceil(n_tokens / 128) * 128


def core_weights(shape: Shape, n_tokens: int) -> dict[str, torch.Tensor]:
    """The tensors by the names of Megatron-core's BertModel with local layers."""
    width, ffn, rows = shape.width, shape.ffn, padded(n_tokens)
    products = {"lm_head.dense": (width, width)}
    norms = ["encoder.final_layernorm", "lm_head.layer_norm"]
    for layer in range(shape.layers):
        stem = f"encoder.layers.{layer}"
        products |= {
            f"{stem}.self_attention.linear_qkv": (3 * width, width),
            f"{stem}.self_attention.linear_proj": (width, width),
            f"{stem}.mlp.linear_fc1": (ffn, width),
            f"{stem}.mlp.linear_fc2": (width, ffn),
        }
        norms += [f"{stem}.input_layernorm", f"{stem}.pre_mlp_layernorm"]
    tables = {"word": (rows, width), "position": (shape.positions, width)}
    names = {f"embedding.{kind}_embeddings.weight": size for kind, size in tables.items()}
    out = {name: fill(name, size, 1.0) for name, size in names.items()}
    for name, (n_out, n_in) in products.items():
        # Twice the usual spread, so that attention is far from even and GELUs are not all linear.
        out[f"{name}.weight"] = fill(f"{name}.weight", (n_out, n_in), 2 * math.sqrt(3 / n_in))
        out[f"{name}.bias"] = fill(f"{name}.bias", (n_out,), 0.2)
    for name in norms:
        out[f"{name}.weight"] = 1 + fill(f"{name}.weight", (width,), 0.3)
        out[f"{name}.bias"] = fill(f"{name}.bias", (width,), 0.2)
    out["output_layer.bias"] = fill("output_layer.bias", (rows,), 0.2)
    return out


def nemo_1_name(name: str) -> str:
    """NeMo 1's name of one of Megatron-core's tensors."""
    for core, nemo in TO_NEMO_1.items():
        name = name.replace(core, nemo, 1)
    return name


def engine_name(name: str) -> str:
    """Name of the same tensor where Transformer Engine keeps norms in the next product."""
    name = re.sub(r"input_layernorm\.", "self_attention.linear_qkv.layer_norm_", name)
    return re.sub(r"pre_mlp_layernorm\.", "mlp.linear_fc1.layer_norm_", name)


def stacked(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of all layers as one, the layer first and not in the name."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in weights.items():
        found.setdefault(re.sub(r"layers\.\d+\.", "layers.", name), []).append(tensor)
    return {
        name: torch.stack(parts) if ".layers." in name else parts[0]
        for name, parts in found.items()
    }


def vocabulary_json(medians: Mapping[str, float]) -> str:
    """``geneformer.vocab``: tokens, and a made-up symbol for each gene."""
    tokens = {name: token for token, name in enumerate((*SPECIALS, *medians))}
    return json.dumps({"vocab": tokens, "gene_to_ens": {f"S{g[-4:]}": g for g in medians}})


def write_nemo(
    path: Path,
    size: str = "small",
    *,
    medians: Mapping[str, float] | None = None,
    dots: bool = True,
    gzip: bool = False,
    artifacts: bool = True,
    changed: Mapping[str, Any] | None = None,
) -> Path:
    """Write a NeMo 1 archive.

    `dots` puts ``./`` before the names of its members, `artifacts` puts medians and vocabulary
    in it; `changed` replaces tensors by their NeMo 1 names (None removes one).
    """
    medians = made_medians() if medians is None else medians
    shape = SHAPES[size]
    weights: dict[str, Any] = {
        nemo_1_name(name): tensor
        for name, tensor in core_weights(shape, len(SPECIALS) + len(medians)).items()
    }
    weights.update(changed or {})
    packed = io.BytesIO()
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, packed)
    files = {"model_weights.ckpt": packed.getvalue()}
    texts = {
        "medians.json": json.dumps(dict(medians)),
        "geneformer.vocab": vocabulary_json(medians),
    }
    hashed = {
        name: f"{hashlib.md5(text.encode()).hexdigest()}_{name}" for name, text in texts.items()
    }
    if artifacts:
        files |= {hashed[name]: text.encode() for name, text in texts.items()}
    config = NEMO_1_YAML.format(
        **vars(shape), medians=hashed["medians.json"], vocabulary=hashed["geneformer.vocab"]
    )
    files["model_config.yaml"] = config.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if gzip else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}" if dots else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def edit_config(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of an archive's config."""
    folder = path.parent / "unpacked"
    with tarfile.open(path) as archive:
        archive.extractall(folder, **SAFELY)
    config = folder / "model_config.yaml"
    config.write_text(change(config.read_text()))
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".")


def write_nemo_2(
    folder: Path,
    size: str = "small",
    *,
    medians: Mapping[str, float] | None = None,
    stack: bool = True,
    engine: bool = True,
    dtype: torch.dtype = torch.float32,
    beside: bool = True,
    changed: Mapping[str, Any] | None = None,
) -> Path:
    """Write a BioNeMo 2 folder.

    `stack` saves all layers as one tensor, `engine` uses Transformer Engine's names, `beside` puts
    ``medians.json`` into the folder; `changed` adds or replaces what is saved, by its full key.
    """
    from torch.distributed import checkpoint

    medians = made_medians() if medians is None else medians
    shape = SHAPES[size]
    weights = {
        engine_name(name) if engine else name: tensor.to(dtype)
        for name, tensor in core_weights(shape, len(SPECIALS) + len(medians)).items()
    }
    if stack:
        weights = stacked(weights)
    state: dict[str, Any] = {f"module.{name}": tensor for name, tensor in weights.items()}
    kept = "module.encoder.layers.mlp.linear_fc1"
    state[f"{kept}._extra_state/shard_0_{shape.layers}"] = io.BytesIO(b"not a tensor")
    state[f"optimizer.state.exp_avg.{kept}.weight"] = torch.zeros(8)
    state.update(changed or {})
    (folder / "weights").mkdir(parents=True)
    (folder / "context").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a process that is alone
        checkpoint.save(state, checkpoint_id=folder / "weights", no_dist=True)
    (folder / "weights/metadata.json").write_text(
        '{"sharded_backend": "torch_dist", "sharded_backend_version": 1, '
        '"common_backend": "torch", "common_backend_version": 1}'
    )
    torch.save(
        {"global_step": 7, "pytorch-lightning_version": "2.4.0"}, folder / "weights/common.pt"
    )
    (folder / "context/model.yaml").write_text(MODEL_YAML.format(**vars(shape)))
    (folder / "context/io.json").write_text(json.dumps(io_json(shape)))
    if beside:
        (folder / "medians.json").write_text(json.dumps(dict(medians)))
    return folder


def io_json(shape: Shape) -> dict[str, Any]:
    """The form in which NeMo 2 writes down how objects are to be built, in small."""
    values = {"num_layers": shape.layers, "num_attention_heads": shape.heads}
    config = {
        "type": {"type": "pyref", "module": "bionemo.geneformer.api", "name": "GeneformerConfig"},
        "items": [
            [f"Attr(name='{name}')", {"type": "leaf", "value": value, "paths": [f"<root>.{name}"]}]
            for name, value in values.items()
        ],
    }
    return {"objects": {"geneformer_config_1": config}, "refcounts": {}, "version": "0.0.1"}


def write_transformer_engine(
    geneformer: Path, folder: Path, *, dtype: torch.dtype = torch.float32, bin_file: bool = False
) -> Path:
    """Export a folder of Geneformer as NVIDIA's recipe does."""
    from safetensors.torch import load_file, save_file

    config = json.loads((geneformer / "config.json").read_text())
    heads = config["num_attention_heads"]
    weights = engine_weights(load_file(geneformer / "model.safetensors"), heads)
    folder.mkdir(parents=True)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if bin_file:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(
            {name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors"
        )
    config |= {
        "auto_map": {"AutoModelForMaskedLM": "geneformer.BertForMaskedLM"},
        "framework": "pytorch",
        "fuse_qkv_params": True,
        "micro_batch_size": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_te_layers": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    return folder


def engine_weights(weights: Mapping[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """Geneformer's tensors by the export's names, query, key and value packed head by head."""
    names = {
        "attention.output.dense": "self_attention.proj",
        "attention.output.LayerNorm": "layernorm",
        "intermediate.dense": "layernorm_mlp.fc1",
        "output.dense": "layernorm_mlp.fc2",
        "output.LayerNorm": "layernorm_mlp.layer_norm",
    }
    out = {}
    for name, tensor in weights.items():
        layer = re.fullmatch(r"(bert\.encoder\.layer\.\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            out[name] = tensor
        elif layer[2] in names:
            out[f"{layer[1]}.{names[layer[2]]}.{layer[3]}"] = tensor
        elif layer[2] == "attention.self.query":
            thirds = [weights[name.replace("query", kind)] for kind in ("query", "key", "value")]
            rows = [part.chunk(heads)[head] for head in range(heads) for part in thirds]
            out[f"{layer[1]}.self_attention.qkv.{layer[3]}"] = torch.cat(rows)
    out["cls.predictions.decoder.weight"] = out["bert.embeddings.word_embeddings.weight"]
    out["cls.predictions.decoder.bias"] = out["cls.predictions.bias"]
    return out


def made_cells() -> csr_matrix:
    """Seven cells over `MADE_GENES`: one gene, two, equal counts, few, many, more than are read."""
    drawn = (fill("counts", (7, len(MADE_GENES)), 1.0).double().numpy() + 1) / 2
    share = np.array([0.0, 0.0, 0.05, 0.1, 0.25, 0.6, 0.95])[:, None]
    depth = np.array([1, 1, 1, 4, 8, 30, 400])[:, None]
    counts = np.where(drawn < share, np.ceil(depth * (drawn / np.maximum(share, 0.01)) ** 6), 0)
    counts[0, 77], counts[1, 5], counts[1, 250], counts[4, 20:24] = 3, 2, 9, 6
    return csr_matrix(counts.astype(np.int64))


def engine_source() -> dict[str, torch.Tensor]:
    """A few tensors of Geneformer's, two heads wide, by their own names: what an export renames."""
    width, ffn = 128, 192
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (40, width),
        "bert.embeddings.LayerNorm.bias": (width,),
        "cls.predictions.bias": (40,),
        "cls.predictions.transform.dense.weight": (width, width),
    }
    for layer in range(2):
        stem = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes[f"{stem}.attention.self.{part}.weight"] = (width, width)
            shapes[f"{stem}.attention.self.{part}.bias"] = (width,)
        shapes[f"{stem}.attention.output.dense.weight"] = (width, width)
        shapes[f"{stem}.attention.output.LayerNorm.weight"] = (width,)
        shapes[f"{stem}.intermediate.dense.weight"] = (ffn, width)
        shapes[f"{stem}.output.dense.weight"] = (width, ffn)
        shapes[f"{stem}.output.LayerNorm.weight"] = (width,)
    return {name: fill(name, shape) for name, shape in shapes.items()}
