"""scGPT: `get_batch_cell_embeddings` of its own ``tasks/cell_emb.py``, as `embed_data` calls it.

Its packages are imported past their own ``__init__``, which ask for much that is not used. The
vocabulary is made by appending tokens in order: where torchtext is missing, its own from_file makes
the same of them in minutes. It draws bins of tied counts and genes of long cells at random, so what
is compared is its network's output for our tokens and bins.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.references import ABOUT, SYMBOLS, Task, our_tokens, stand_in

if TYPE_CHECKING:
    from anndata import AnnData

PARTS = ("scgpt", "scgpt.model", "scgpt.utils", "scgpt.tokenizer", "scgpt.tasks")
SPECIALS = ("<pad>", "<cls>", "<eoc>")
BATCH = ABOUT["scgpt"].batch


class Peer:
    """See `references.Peer`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        log = logging.getLogger("scGPT")
        parts = {
            name: stand_in(name, __path__=[str(task.clone.joinpath(*name.split(".")))], logger=log)
            for name in PARTS
        }
        if "IPython" not in sys.modules:
            stand_in("IPython", get_ipython=lambda: None)
        found: dict[str, Any] = {
            name: importlib.import_module(f"scgpt.{name}")
            for name in ("tokenizer.gene_tokenizer", "utils.util", "model.model")
        }
        # What the packages' own __init__ would have put there, and cell_emb asks for.
        self.Vocabulary = found["tokenizer.gene_tokenizer"].GeneVocab
        self.Network = found["model.model"].TransformerModel
        self.load_weights = found["utils.util"].load_pretrained
        vars(parts["scgpt.tokenizer"])["GeneVocab"] = self.Vocabulary
        vars(parts["scgpt.model"])["TransformerModel"] = self.Network
        vars(parts["scgpt.utils"])["load_pretrained"] = self.load_weights
        self.cell_emb: Any = importlib.import_module("scgpt.tasks.cell_emb")

    def load(self) -> None:
        """Load vocabulary and weights."""
        folder = self.task.source if self.task.source.is_dir() else self.task.source.parent
        tokens = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self.args = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        self.vocab: Any = self.Vocabulary([], default_token=None)
        for name in sorted(tokens, key=tokens.__getitem__):
            self.vocab.append_token(name)
        for name in SPECIALS:
            if name not in self.vocab:
                self.vocab.append_token(name)
        args = self.args
        self.network: Any = self.Network(
            ntoken=len(self.vocab),
            d_model=args["embsize"],
            nhead=args["nheads"],
            d_hid=args["d_hid"],
            nlayers=args["nlayers"],
            nlayers_cls=args["n_layers_cls"],
            n_cls=1,
            vocab=self.vocab,
            dropout=args["dropout"],
            pad_token=args["pad_token"],
            pad_value=args["pad_value"],
            do_mvc=True,
            use_fast_transformer=False,
        )
        weights = torch.load(folder / "best_model.pt", map_location="cpu")
        self.load_weights(self.network, weights, verbose=False)
        self.network.eval()

    def ready(self, cells: AnnData) -> AnnData:
        """The cells as they are."""
        return cells

    def embed(self, ready: AnnData) -> npt.NDArray[np.float32]:
        """Vectors at <cls>, of unit length."""
        token_of = self.vocab.get_stoi()
        ids = np.array([token_of.get(name, -1) for name in ready.var[SYMBOLS]])
        vectors: npt.NDArray[np.float32] = self.cell_emb.get_batch_cell_embeddings(
            ready[:, ids >= 0],
            model=self.network,
            vocab=self.vocab,
            batch_size=BATCH,
            model_configs=self.args,
            gene_ids=ids[ids >= 0],
        )
        return vectors

    @torch.no_grad()
    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors of our tokens and bins, of unit length."""
        cells, out = our_tokens(self.task.tokens), np.zeros_like(vectors)
        filled = [row for row, (tokens, _) in enumerate(cells) if len(tokens)]
        cls, pad, value = self.vocab["<cls>"], self.vocab["<pad>"], self.args["pad_value"]
        for start in range(0, len(filled), BATCH):
            rows = filled[start : start + BATCH]
            genes = [torch.from_numpy(np.insert(cells[row][0], 0, cls)) for row in rows]
            bins = [torch.from_numpy(np.insert(cells[row][1], 0, value)) for row in rows]
            genes_BL, bins_BL = (
                torch.nn.utils.rnn.pad_sequence(x, batch_first=True, padding_value=fill)
                for x, fill in ((genes, pad), (bins, value))
            )
            hidden = self.network._encode(
                genes_BL, bins_BL.float(), src_key_padding_mask=genes_BL.eq(pad)
            )
            out[rows] = torch.nn.functional.normalize(hidden[:, 0]).numpy()
        return out
