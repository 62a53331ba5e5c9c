"""Counts in pinned memory, and copies to a GPU that the host does not wait for.

Batching needs each cell's number of tokens before the GPU has ranked anything. `stage` counts them
in one pass without sorting, so no number is read back from the GPU. Only `Streams` handles
streams, events and pinned memory; on any other device its copies are plain.

Letters: ``G`` columns of the file, ``V`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from cellscribe.cells.tokens import PER_CELL

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Wait = Callable[[], object]
"""Returns when the device has come as far as where it was made."""


class Streams:
    """Copies to and from a device on streams of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        if self._is_cuda:
            self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def pin(self, values: npt.NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
        """Copy an array to pinned memory as `dtype`."""
        host = torch.empty(values.shape, dtype=dtype, pin_memory=self._is_cuda)
        np.copyto(host.numpy(), values, casting="unsafe")
        return host

    def to_device(self, *hosts: torch.Tensor) -> list[torch.Tensor]:
        """Copy pinned tensors; what is queued on the device from now on waits for them."""
        if not self._is_cuda:
            return [host.to(self.device) for host in hosts]
        with torch.cuda.stream(self._up):
            tensors = [host.to(self.device, non_blocking=True) for host in hosts]
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._up)
        for tensor in tensors:
            tensor.record_stream(here)
        return tensors

    def to_host(self, *tensors: torch.Tensor) -> tuple[list[torch.Tensor], Wait]:
        """Copy to pinned memory what has been queued; it may be read after the wait."""
        if not self._is_cuda:
            return list(tensors), self.mark()
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        hosts = []
        with torch.cuda.stream(self._down):
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                hosts.append(host.copy_(tensor, non_blocking=True))
                tensor.record_stream(self._down)
            return hosts, self.mark()

    def mark(self) -> Wait:
        """Mark how much has been queued on the current stream."""
        if not self._is_cuda:
            return lambda: None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize


@dataclass(frozen=True)
class HostBlock:
    """A block of counts in pinned memory, and what the host knows of it."""

    csr: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """Row pointers int64, columns int32, counts int32, or float64 where they need not be whole."""
    longest: int
    """Stored values of the fullest cell."""
    per_cell: dict[str, npt.NDArray[Any]]
    """The fields `PER_CELL` of `CellTokens`."""


def stage(
    block: csr_matrix,
    token_of_column: npt.NDArray[np.int32],
    n_tokens: int,
    streams: Streams,
    *,
    whole: bool = True,
) -> HostBlock:
    """Copy counts to pinned memory and count what each cell holds, as `rank_cells` does.

    Parameters
    ----------
    block
        ``[cells, G]`` counts below 2**31; `Counts.blocks` has seen to that.
    token_of_column
        ``[G]`` token of each column, -1 where unknown. A token counts once a cell, however many
        columns share it.
    n_tokens
        ``V``.
    streams
        Whose pinned memory.
    whole
        All counts are whole numbers.
    """
    stored = slice(int(block.indptr[-1]))
    indptr = streams.pin(block.indptr, torch.int64)
    columns = streams.pin(block.indices[stored], torch.int32)
    values = streams.pin(block.data[stored], torch.int32 if whole else torch.float64)
    counted = _count(indptr.numpy(), columns.numpy(), values.numpy(), token_of_column, n_tokens)
    return HostBlock(
        csr=(indptr, columns, values),
        longest=int(np.diff(block.indptr).max(initial=0)),
        per_cell=dict(zip(PER_CELL, counted, strict=True)),
    )


@numba.njit(cache=True, nogil=True)
def _count(indptr, columns, values, token_of_column, n_tokens):  # type: ignore[no-untyped-def]
    n_cells = len(indptr) - 1
    umis = np.zeros(n_cells, dtype=np.float64)
    umis_known = np.zeros(n_cells, dtype=np.float64)
    genes = np.zeros(n_cells, dtype=np.int32)
    genes_known = np.zeros(n_cells, dtype=np.int32)
    # The last cell that had a token tells whether a shared one is new, and is never cleared.
    last_cell = np.full(n_tokens, -1, dtype=np.int64)
    for cell in range(n_cells):
        for place in range(indptr[cell], indptr[cell + 1]):
            count = np.float64(values[place])
            if count == 0:
                continue
            umis[cell] += count
            genes[cell] += 1
            token = token_of_column[columns[place]]
            if token < 0:
                continue
            umis_known[cell] += count
            if last_cell[token] != cell:
                last_cell[token] = cell
                genes_known[cell] += 1
    rounded = np.rint(umis).astype(np.int64), np.rint(umis_known).astype(np.int64)
    return rounded[0], rounded[1], genes, genes_known
