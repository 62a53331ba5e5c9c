"""Many processes that train one model, under torchrun: DDP, or FSDP2 by a flag.

The rest of training uses a `Team` and is written as if there were one process: `wrap` returns the
network as one module, and `all_reduce` sums numbers on which all ranks must agree. One process is a
team of one, without torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from cellscribe.config import TrainOptions
from cellscribe.errors import InputError
from cellscribe.training.objective import Objective

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others, including while they write a checkpoint."""


class Team:
    """One process alone."""

    rank = 0
    size = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes files and log lines."""
        return self.rank == 0

    def wrap(self, objective: Objective, options: TrainOptions) -> nn.Module:
        """Return the module to call instead of `objective`; it may cut parameters into shards."""
        return objective

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Do not exchange gradients inside, because more of this step follow."""
        return nullcontext()

    def reshard(self, module: nn.Module) -> None:
        """Cut parameters into shards again after a forward pass without a backward pass."""

    def all_reduce(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over all ranks; every rank gets the sums."""
        return list(numbers)

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every rank's tensor, all of one shape, by rank; without gradient."""
        return [tensor]

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gather a tensor that may be in shards; all ranks must call it."""
        return tensor

    def shard_like(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of a whole tensor, on the device of `like`."""
        return whole.to(like.device)


class Ranks(Team):
    """One of several processes."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        self._dist = dist
        self._device = device
        self._sharded = False
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def wrap(self, objective: Objective, options: TrainOptions) -> nn.Module:
        """Apply DDP or FSDP2."""
        if options.parallel == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self._device.type, (self.size,))
            for block in objective.model.encoder.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(objective, mesh=mesh)
            self._sharded = True
            return objective
        from torch.nn.parallel import DistributedDataParallel

        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True)

    @contextmanager
    def no_sync(self, module: Any) -> Iterator[None]:
        """Add up gradients on this rank; the last micro batch, outside, exchanges them."""
        if not self._sharded:
            with module.no_sync():
                yield
            return
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def reshard(self, module: Any) -> None:
        """Free what FSDP2 gathered, so that parameters are again those that AdamW knows."""
        if self._sharded:
            for part in module.modules():
                if hasattr(part, "reshard"):
                    part.reshard()

    def all_reduce(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over all ranks, in float64."""
        sums = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self._dist.all_reduce(sums)
        return sums.tolist()

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Exchange tensors of one shape."""
        everyone = [torch.empty_like(tensor) for _ in range(self.size)]
        self._dist.all_gather(everyone, tensor.contiguous())
        return everyone

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gather the shards of a DTensor; return other tensors as they are."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def shard_like(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return this rank's shard if `like` is in shards, else the whole tensor."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        whole = whole.to(like.device)
        if isinstance(like, DTensor):
            return distribute_tensor(whole, like.device_mesh, like.placements)
        return whole


def ranks_here() -> int:
    """Return the number of processes that torchrun started for this run; 1 without torchrun.

    Raises
    ------
    InputError
        Some of torchrun's environment variables are missing.
    """
    if "WORLD_SIZE" not in os.environ:
        return 1
    missing = [
        n for n in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ
    ]
    if missing and os.environ["WORLD_SIZE"] != "1":
        raise InputError(
            f"WORLD_SIZE is set and {missing[0]} is not; start with torchrun, or unset WORLD_SIZE"
        )
    return int(os.environ["WORLD_SIZE"])


def rank_here() -> int:
    """Return the rank of this process."""
    return 0 if ranks_here() == 1 else int(os.environ["RANK"])


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """Join the other processes of the run, if there are any; leave them at the end."""
    if ranks_here() == 1:
        yield Team()
        return
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(device)
        # Close together: if one end closes a connection, the other aborts.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Give each rank of a machine a GPU of its own.

    Raises
    ------
    InputError
        A machine has fewer GPUs than ranks, or one GPU was named for several ranks.
    """
    if device.type != "cuda" or ranks_here() == 1:
        return device
    local = int(os.environ["LOCAL_RANK"])
    if device.index is not None:
        raise InputError(f"--device {device} is one GPU for several ranks; give --device cuda")
    if local >= torch.cuda.device_count():
        raise InputError(
            f"this machine has {torch.cuda.device_count()} GPUs and rank {local} wants one more; "
            "lower --nproc-per-node"
        )
    return torch.device("cuda", local)
