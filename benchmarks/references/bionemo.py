"""BioNeMo: its own `process_item` and network, over Megatron-core's local layers on the CPU.

What is not installed (NeMo, Lightning, Transformer Engine, ...) is stood in for by empty modules,
and what asks for CUDA by the CPU. Weights come from a NeMo 1 archive, renamed by BioNeMo's own
mapping. Its command pads every batch to 2,048 places; here to its longest cell, which is kind.
Its sort breaks ties as it happens, so what is compared is its network's output for our tokens.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import tarfile
import types
import typing
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, patch

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.references import ABOUT, Task, our_tokens
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

ABSENT = (
    *("nemo", "lightning", "pytorch_lightning", "torchmetrics", "transformer_engine"),
    *("accelerate", "bionemo.scdl", "bionemo.core.data.load", "boto3", "botocore"),
    *("infra_bionemo", "ngcsdk", "omegaconf", "platformdirs", "pooch", "wandb", "webdataset"),
)
MEGATRON = (
    "parallel_state",
    "tensor_parallel",
    "models.bert.bert_layer_specs",
    "models.bert.bert_model",
)
WEIGHTS = "model_weights.ckpt"
MULTIPLE = 128
"""NeMo stores so many rows of tokens, or a multiple."""


def _module(name: str) -> Any:
    """A module that may not be installed here."""
    return importlib.import_module(name)


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives an empty module for what is not installed; no code that runs here asks it for work."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Spec of a module that is stood in for."""
        if any(name == root or name.startswith(f"{root}.") for root in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        """A module that has every attribute."""
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
        """Nothing is in it."""


class Peer:
    """See `references.Peer`."""

    def __init__(self, task: Task) -> None:
        self.task, self.config = task, task.model["config"]
        if task.source.is_dir():
            raise InputError(
                f"{task.source}: BioNeMo is measured from its .nemo archive; give that"
            )
        # Before anything pretends that Transformer Engine is here.
        parallel, tensors, *_ = (_module(f"megatron.core.{name}") for name in MEGATRON)
        sys.meta_path.insert(0, Absent())
        for part in ("core", "llm", "geneformer"):
            sys.path.insert(0, str(task.clone / f"sub-packages/bionemo-{part}/src"))
        patch("torch.cuda.current_device", lambda: torch.device("cpu")).start()
        tensors.get_cuda_rng_tracker().fork = lambda *names: contextlib.nullcontext()
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        parallel.initialize_model_parallel()
        bert = _module("bionemo.llm.model.biobert.model")
        specs = _module("bionemo.llm.model.biobert.transformer_specs")
        self.layers = specs.BiobertSpecOption.bert_layer_local_spec
        self.make_config = _module("bionemo.geneformer.api").GeneformerConfig
        self.process_item = _module("bionemo.geneformer.data.singlecell.dataset").process_item
        self.pad_batch = _module("bionemo.llm.data.collate").bert_padding_collate_fn
        names = _module("bionemo.llm.utils.weight_utils")
        self.present_name = names.nemo1_to_nemo2_biobert_key_mapping
        tokenizer = _module("bionemo.geneformer.tokenizer.gene_tokenizer").GeneTokenizer
        genes = slice(task.model["n_special"], None)
        self.medians = dict(
            zip(task.model["ids"][genes], task.model["medians"][genes], strict=True)
        )
        self.tokenizer: Any = tokenizer.from_medians_and_genes_dicts(self.medians, {})
        self.pad = self.tokenizer.token_to_id(self.tokenizer.pad_token)
        # NeMo's, which is not here: up to the next multiple.
        bert.get_vocab_size = lambda config, size, divisor: -(-size // MULTIPLE) * MULTIPLE

    def load(self) -> None:
        """Load a NeMo 1 archive."""
        shape = self.config
        config = self.make_config(
            num_layers=shape["num_hidden_layers"],
            hidden_size=shape["hidden_size"],
            ffn_hidden_size=shape["intermediate_size"],
            num_attention_heads=shape["num_attention_heads"],
            seq_length=shape["max_position_embeddings"],
            biobert_spec_option=self.layers,
            params_dtype=torch.float32,
            use_cpu_initialization=True,
            # no CPU kernels
            persist_layer_norm=False,
            masked_softmax_fusion=False,
            bias_dropout_fusion=False,
            apply_rope_fusion=False,
            include_embeddings=True,
            skip_logits=True,
        )
        tokens = types.SimpleNamespace(vocab_size=len(self.task.model["ids"]))
        self.network: Any = config.configure_model(tokens).eval()
        with tarfile.open(self.task.source) as archive:
            (member,) = (m for m in archive if m.name.rpartition("/")[2] == WEIGHTS)
            stream = archive.extractfile(member)
            assert stream is not None
            weights = torch.load(stream, map_location="cpu")
        renamed = {
            self.present_name(name, new_model_prefix=""): tensor for name, tensor in weights.items()
        }
        keys = self.network.load_state_dict(renamed, strict=False)
        lacking = [key for key in keys.missing_keys if "_extra_state" not in key]
        if lacking or keys.unexpected_keys:
            raise InputError(f"BioNeMo's network does not take these weights: {keys}")

    def ready(self, cells: AnnData) -> AnnData:
        """The cells as they are."""
        return cells

    def embed(self, ready: AnnData) -> npt.NDArray[np.float32]:
        """BioNeMo's own vectors of cells."""
        genes = ready.var_names.to_numpy()
        none = {"mask_prob": 0, "mask_token_prob": 0, "random_token_prob": 0}
        items = [
            self.process_item(
                row.data.astype(float),
                row.indices,
                genes,
                self.tokenizer,
                gene_median=self.medians,
                rng=np.random.default_rng(0),
                max_len=self.config["max_position_embeddings"],
                **none,
            )
            for row in ready.X
        ]
        return self._vectors(items)

    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors of our tokens."""
        cls = self.tokenizer.token_to_id(self.tokenizer.cls_token)
        cells, out = our_tokens(self.task.tokens), np.zeros_like(vectors)
        filled = [row for row, (tokens, _) in enumerate(cells) if len(tokens)]
        items = []
        for row in filled:
            text = torch.from_numpy(np.insert(cells[row][0], 0, cls))
            items.append({"text": text, "attention_mask": torch.ones_like(text)})
        out[filled] = self._vectors(items)
        return out

    @torch.no_grad()
    def _vectors(self, items: list[dict[str, torch.Tensor]]) -> npt.NDArray[np.float32]:
        out = []
        for start in range(0, len(items), ABOUT["bionemo"].batch):
            batch = self.pad_batch(items[start : start + ABOUT["bionemo"].batch], self.pad)
            found = self.network(batch["text"], batch["attention_mask"].int())
            out.append(found["embeddings"].float().numpy())
        return np.concatenate(out)
