"""What ends a run early: signals, too little memory, lost ranks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cellscribe.config import TrainOptions
from cellscribe.errors import InputError
from cellscribe.training.distributed import rank_here, ranks_here

AGAIN = 2.0
"""Seconds within which a second signal counts as the first: torchrun sends one more."""


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM and SIGINT; a second one, `AGAIN` seconds later, has its usual effect.

    Yields a function that returns whether a signal has come.
    """
    received: list[float] = []
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}

    def receive(kind: int, frame: object) -> None:
        if received and time.monotonic() - received[0] > AGAIN:
            signal.signal(kind, before[signal.Signals(kind)])
            signal.raise_signal(kind)
        received.append(time.monotonic())

    try:
        for kind in before:
            signal.signal(kind, receive)
        yield lambda: bool(received)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def explained(options: TrainOptions) -> Iterator[None]:
    """Turn failures of memory and of other ranks into errors of one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(_out_of_memory(options, "the GPU")) from error
    except MemoryError as error:
        raise InputError(_out_of_memory(options, "the machine")) from error
    except RuntimeError as error:
        text = str(error)
        if "can't allocate memory" in text:
            raise InputError(_out_of_memory(options, "the machine")) from error
        if ranks_here() > 1 and any(
            word in text for word in ("gloo", "NCCL", "Connection", "peer")
        ):
            raise InputError(
                f"rank {rank_here()} has lost the others ({text.splitlines()[0]}); see what the "
                "first one said, and go on with --resume"
            ) from error
        raise


def _out_of_memory(options: TrainOptions, where: str) -> str:
    return (
        f"{where} has too little memory for micro_batch {options.micro_batch:,}; give "
        f"--micro-batch {max(1, options.micro_batch // 2):,} and go on with --resume"
    )
