"""Geneformer: `transformers.BertModel` on padded batches by length, as its EmbExtractor makes them.

The peer gets its tokens ready made, and skips the masked-gene head that EmbExtractor computes: what
is unfair here is unfair to us. Batches are of 50 cells where EmbExtractor's default is 100: less
padding, and half the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertModel  # noqa: F401 (before the clock starts)

from benchmarks.peers import load_bert
from benchmarks.references import ABOUT, Task, our_tokens

if TYPE_CHECKING:
    from anndata import AnnData

Tokens = list[npt.NDArray[np.int64]]


class Peer:
    """See `references.Peer`."""

    def __init__(self, task: Task) -> None:
        model = task.model
        self.task, self.pad = task, model["config"]["pad_token_id"]
        self.front, self.back = model["front"], model["back"]
        self.layer, self.pool = model["pooling"]["hidden_layer"], model["pooling"]["pool"]

    def load(self) -> None:
        """Load the published folder."""
        self.bert: Any = load_bert(self.task.source)

    def ready(self, cells: AnnData) -> Tokens:
        """Tokens of each cell, special ones included; those without genes have none."""
        ours = our_tokens(self.task.tokens)[: cells.n_obs]
        return [np.array([*self.front, *x, *self.back] if len(x) else [], int) for x, _ in ours]

    @torch.no_grad()
    def embed(self, ready: Tokens) -> npt.NDArray[np.float32]:
        """Vectors of tokens; the longest cells first."""
        out = np.zeros((len(ready), self.bert.config.hidden_size), np.float32)
        order = np.argsort([-len(cell) for cell in ready], kind="stable")
        order = order[: sum(len(cell) > 0 for cell in ready)]
        for start in range(0, len(order), ABOUT["geneformer"].batch):
            rows = order[start : start + ABOUT["geneformer"].batch]
            out[rows] = self._batch([torch.from_numpy(ready[row]) for row in rows]).numpy()
        return out

    def _batch(self, cells: list[torch.Tensor]) -> torch.Tensor:
        ids = torch.nn.utils.rnn.pad_sequence(cells, batch_first=True, padding_value=self.pad)
        places = torch.arange(ids.shape[1])
        ends = torch.tensor([len(cell) for cell in cells])[:, None]
        mask = (places < ends).long()
        last = self.layer == -1
        found = self.bert(input_ids=ids, attention_mask=mask, output_hidden_states=not last)
        hidden = found.last_hidden_state if last else found.hidden_states[self.layer]
        if self.pool == "cls":
            return hidden[:, 0]
        genes = (places >= len(self.front)) & (places < ends - len(self.back))
        weights = genes[..., None].float()
        return (hidden * weights).sum(1) / weights.sum(1)

    def compared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What `embed` gave: its tokens were ours."""
        return vectors
