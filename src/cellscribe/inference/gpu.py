"""Embedding on a GPU that waits for nothing on the host.

Three threads run ahead of the caller: one reads, one counts and copies into pinned memory, one
queues copies, ranks, encoder and copies back. No number is read back from the device (what batching
needs was counted on the host), so queueing never waits for it; the caller waits for events alone.

Cells are batched by groups of `GROUP` blocks. A group's tokens stay on the device in one padded
array ``[C, W]``, special tokens around them; a batch is gathered from it. Device "cpu" runs
the same code.

Letters: ``B`` cells of a batch, ``C`` of a group, ``F`` of its cells with a token, batch by batch,
``N`` packed tokens, ``L`` tokens of the longest cell, ``W`` places a cell, ``D`` width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from cellscribe.callbacks import Progress
from cellscribe.cells.batches import length_buckets
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.pipeline import BLOCK, read_ahead
from cellscribe.cells.rank import rank_cells_torch
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.errors import InputError
from cellscribe.families.bert.model import Bert
from cellscribe.inference.cpu import Block
from cellscribe.inference.pinned import HostBlock, Streams, Wait, stage
from cellscribe.model.attention import Lengths, has_varlen_kernel
from cellscribe.model.encoder import Encoder, Linear

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

GPU_TOKENS = 65_536
"""Tokens a batch: rows enough to fill a large chip, and work enough to outlast its launches, while
the activations of geneformer-106m stay, by count, at about 1.5 GB in bf16 and 3 GB in float32."""
GROUP = 8
"""Blocks batched together, so that a batch holds cells of nearly one length."""


def gpu_blocks(
    model: Bert,
    counts: Counts,
    genes: GeneMap,
    start: int = 0,
    progress: Progress | None = None,
    *,
    packed: bool | None = None,
) -> Iterator[Block]:
    """Embed from row `start` on, ``GROUP * BLOCK`` cells at a time.

    Groups begin at multiples of ``GROUP * BLOCK`` and batches depend on their group alone, so the
    same rows get the same vectors whatever `start` is. A `start` in between costs the cells of its
    group before it, which are embedded and dropped.

    Parameters
    ----------
    model
        On its device.
    counts, genes
        Opened cells, and the tokens of their columns.
    start
        First row.
    progress
        Called with (cells done, cells in all) after each batch.
    packed
        Cells of a batch one after the other, or padded. By default packed where torch has
        variable-length attention: in half precision from compute capability 8.0 on, and on a CPU.

    Raises
    ------
    InputError
        Bad counts, see `Counts.blocks`, or too little memory on the device.
    """
    # Not "cuda": the threads have a current device of their own.
    device = next(model.network.parameters()).device
    streams = Streams(device)
    packed = _choose_layout(model.network, device) if packed is None else packed
    skip = start % (GROUP * BLOCK)
    done = start - skip

    n_tokens = len(model.vocabulary)

    def host_blocks(blocks: Iterator[csr_matrix]) -> Iterator[HostBlock]:
        for block in blocks:
            yield stage(block, genes.token, n_tokens, streams, whole=counts.kind == "raw")

    def queued_groups(blocks: Iterator[HostBlock]) -> Iterator[_Group]:
        with _memory_told(device):
            queue = _Queue(model, genes, streams, packed)
        for block in blocks:
            with _memory_told(device):
                queue.rank(block)
                group = queue.embed() if queue.n_blocks == GROUP else None
            if group is not None:
                yield group
        if queue.n_blocks:
            with _memory_told(device):
                group = queue.embed()
            yield group

    # A whole group lies staged when the one before it has been queued. Closed last to first.
    with (
        closing(read_ahead(counts.blocks(BLOCK, done), depth=1)) as read,
        closing(read_ahead(host_blocks(read), depth=GROUP)) as staged,
        closing(read_ahead(queued_groups(staged), depth=1)) as groups,
    ):
        for group in groups:
            done += int((group.lengths == 0).sum())
            for n_cells, wait in group.batches:
                wait()
                done += n_cells
                if progress is not None:
                    progress(max(done, start), counts.n_cells)
            yield group.finish(skip)
            skip = 0


def _choose_layout(encoder: Encoder, device: torch.device) -> bool:
    """Whether cells are packed."""
    if device.type == "cpu":
        return True
    dtype = next(m.compute_dtype for m in encoder.modules() if isinstance(m, Linear))
    packed = has_varlen_kernel(torch.empty(0, dtype=dtype, device=device))
    if not packed:
        name = str(dtype).removeprefix("torch.")
        print(
            f"{device} has no variable-length attention in {name}: cells are padded",
            file=sys.stderr,
        )
    return packed


@contextmanager
def _memory_told(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{device} has too little free memory for batches of {GPU_TOKENS:,} tokens; end what "
            "else runs on it, choose a smaller model, or use --device cpu"
        ) from error


@dataclass(frozen=True)
class _Group:
    """Cells whose embedding is queued."""

    lengths: npt.NDArray[np.int64]  # [C] genes
    per_cell: dict[str, npt.NDArray[Any]]
    batches: list[tuple[int, Wait]]  # cells of each
    tokens_N: torch.Tensor  # int32, on the host when `wait` is over
    vectors_CD: torch.Tensor
    wait: Wait

    def finish(self, skip: int) -> Block:
        """Wait and copy the cells after the first `skip` out of pinned memory, which is scarce."""
        self.wait()
        cells = CellTokens(
            tokens=self.tokens_N.numpy().astype(np.uint16),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)]),
            **self.per_cell,
        )
        return Block(
            vectors=self.vectors_CD.numpy()[skip:].copy(),
            cells=cells.slice(skip, len(self.lengths)) if skip else cells,
        )


class _Queue:
    """Queues work on the device, and holds the tokens of the group that is being ranked."""

    def __init__(self, model: Bert, genes: GeneMap, streams: Streams, packed: bool) -> None:
        self._model, self._specials = model, model.specials
        self._streams, self._packed = streams, packed
        self._token_of_column, self._medians = streams.to_device(
            streams.pin(genes.token, torch.int64),
            streams.pin(model.vocabulary.medians, torch.float64),
        )
        self._tokens_CW = torch.empty(0)
        self._per_cell: list[dict[str, npt.NDArray[Any]]] = []

    @property
    def n_blocks(self) -> int:
        """Blocks ranked and not embedded."""
        return len(self._per_cell)

    @torch.inference_mode()
    def rank(self, block: HostBlock) -> None:
        """Queue the ranking of a block."""
        device, context = self._streams.device, self._model.context
        front = len(self._specials.front)
        if not self._per_cell:
            shape = (GROUP * BLOCK, context + self._specials.n)
            self._tokens_CW = torch.full(shape, -1, dtype=torch.int32, device=device)
            for place, token in enumerate(self._specials.front):
                self._tokens_CW[:, place] = token
        indptr, columns, values = self._streams.to_device(*block.csr)
        tokens, lengths = rank_cells_torch(
            indptr, columns, values, self._token_of_column, self._medians, context, block.longest
        )
        n_cells, n_places = tokens.shape
        first = self.n_blocks * BLOCK
        ours = self._tokens_CW[first : first + n_cells]
        ours[:, front : front + n_places] = tokens
        for place, token in enumerate(self._specials.back):
            ours.scatter_(1, (front + lengths + place)[:, None], token)
        self._per_cell.append(block.per_cell)

    @torch.inference_mode()
    def embed(self) -> _Group:
        """Queue the embedding of all blocks ranked so far; the next one begins a new group."""
        streams, device, tokens_CW = self._streams, self._streams.device, self._tokens_CW
        per_cell = {
            name: np.concatenate([part[name] for part in self._per_cell]) for name in PER_CELL
        }
        self._per_cell = []
        lengths = np.minimum(per_cell["genes_known"], self._model.context).astype(np.int64)
        filled = np.flatnonzero(lengths)
        read = lengths + self._specials.n
        batches = [filled[places] for places in length_buckets(read[filled], GPU_TOKENS)]
        order = np.concatenate([filled[:0], *batches])
        rows_F, lengths_F = streams.to_device(
            streams.pin(order, torch.int64), streams.pin(read[order], torch.int64)
        )
        n_cells, width = len(lengths), self._model.width
        vectors_CD = torch.zeros((n_cells, width), dtype=torch.float32, device=device)
        marks: list[tuple[int, Wait]] = []
        sizes = [len(rows) for rows in batches]
        for rows, rows_B, lengths_B in zip(
            batches, rows_F.split(sizes), lengths_F.split(sizes), strict=True
        ):
            cells = Lengths(tuple(read[rows].tolist()), device)
            # Cached properties, filled so that `Lengths` copies nothing from pageable memory.
            offsets = F.pad(lengths_B.cumsum(0), (1, 0)).int()
            vars(cells).update(lengths_B=lengths_B, offsets=offsets)
            vectors_CD.index_copy_(0, rows_B, self._vectors(tokens_CW, rows_B, cells))
            marks.append((len(rows), streams.mark()))
        lengths_C = torch.zeros(n_cells, dtype=torch.int64, device=device)
        lengths_C.index_copy_(0, rows_F, lengths_F - self._specials.n)
        rows_C = torch.arange(n_cells, device=device)
        tokens_N = pack(
            tokens_CW[:, len(self._specials.front) :], rows_C, lengths_C, int(lengths.sum())
        )
        (tokens_N, vectors_CD), wait = streams.to_host(tokens_N, vectors_CD)
        return _Group(lengths, per_cell, marks, tokens_N, vectors_CD, wait)

    def _vectors(
        self, tokens_CW: torch.Tensor, rows_B: torch.Tensor, cells: Lengths
    ) -> torch.Tensor:
        """Embed one batch of cells, none empty, ``[B, D]``."""
        network, rule = self._model.network, self._model.rule
        if self._packed:
            tokens_N = pack(tokens_CW, rows_B, cells.lengths_B, sum(cells.lengths))
            hidden_ND = network(tokens_N, cells, hidden_layer=rule.hidden_layer)
            return self._model.vectors(tokens_N, hidden_ND, cells)
        tokens_BL = tokens_CW.index_select(0, rows_B)[:, : cells.longest]
        tokens_BL = tokens_BL.masked_fill(tokens_BL < 0, self._model.config.pad_token_id)
        hidden_BLD = network(tokens_BL, cells, hidden_layer=rule.hidden_layer)
        return self._model.vectors(tokens_BL, hidden_BLD, cells)


def pack(
    tokens_CW: torch.Tensor, rows_B: torch.Tensor, lengths_B: torch.Tensor, n_tokens: int
) -> torch.Tensor:
    """First `lengths_B` tokens of the rows `rows_B`, one after the other, ``[n_tokens]``.

    `n_tokens` is the sum of the lengths, known on the host.
    """
    firsts_B = lengths_B.cumsum(0) - lengths_B
    place_N = torch.arange(n_tokens, device=tokens_CW.device)
    place_N = place_N - firsts_B.repeat_interleave(lengths_B, output_size=n_tokens)
    row_N = rows_B.repeat_interleave(lengths_B, output_size=n_tokens)
    return tokens_CW[row_N, place_N]
