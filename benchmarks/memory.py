"""Memory of a command over its life: resident size of the process and its children, sampled.

The peak alone does not tell a command that streams from one whose input happened to fit, so the
whole curve is kept, thinned. Read from Linux's /proc; elsewhere there is no result rather than a
guess.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellscribe.errors import InputError

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class MemoryCurve:
    """Resident memory of a finished command."""

    seconds: list[float]
    """Since the start, one for each sample."""
    rss_mb: list[float]
    """Resident memory of the process and its children, MB of 10^6 bytes."""
    peak_mb: float
    """Highest sample, or the kernel's own high-water mark of the process where that is higher."""
    largest_mb: float = 0.0
    """Highest high-water mark of one process, among the command and its children."""

    def thinned(self, points: int) -> MemoryCurve:
        """Keep the highest sample of each of `points` stretches."""
        if len(self.rss_mb) <= points:
            return self
        stretches = np.array_split(np.arange(len(self.rss_mb)), points)
        kept = [int(s[np.argmax(np.take(self.rss_mb, s))]) for s in stretches]
        return MemoryCurve(
            seconds=[self.seconds[i] for i in kept],
            rss_mb=[self.rss_mb[i] for i in kept],
            peak_mb=self.peak_mb,
            largest_mb=self.largest_mb,
        )

    def growth_mb(self) -> float:
        """Mean of the last fifth less mean of the second fifth, which comes after the start-up."""
        fifths = np.array_split(np.array(self.rss_mb), 5)
        return float(fifths[4].mean() - fifths[1].mean()) if len(self.rss_mb) >= 5 else 0.0


def measure_memory(command: Sequence[str | Path], *, interval: float = 0.25) -> MemoryCurve:
    """Run a command to its end and sample its resident memory.

    Parameters
    ----------
    command
        Program and arguments.
    interval
        Seconds between samples.

    Raises
    ------
    InputError
        There is no /proc here, or the command failed; its last line of stderr is passed on.
    """
    if not (PROC / "self" / "status").exists():
        raise InputError(
            "memory is read from /proc, which only Linux has; run this benchmark there"
        )
    seconds, sizes, mark, largest = [], [], 0.0, 0.0
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while True:
            resident, high, highest = _tree_mb(process.pid)
            if resident:
                seconds.append(round(time.perf_counter() - start, 3))
                sizes.append(round(resident, 1))
                mark, largest = max(mark, high), max(largest, highest)
            try:
                # communicate() drains stderr meanwhile: a progress bar would fill the pipe.
                _, errors = process.communicate(timeout=interval)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        last = (errors or "").strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            f"{Path(command[0]).name} failed with status {process.returncode}: {last[0]}"
        )
    return MemoryCurve(
        seconds=seconds,
        rss_mb=sizes,
        peak_mb=round(max([mark, *sizes]), 1),
        largest_mb=round(largest, 1),
    )


def _tree_mb(pid: int) -> tuple[float, float, float]:
    """Resident size of a process and all below it, its own high-water mark, and the highest, MB."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
        children = [
            int(child)
            for task in (PROC / str(pid) / "task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0, 0.0  # it ended between two looks
    fields = dict(line.split(":", 1) for line in lines)
    # A zombie has no memory fields.
    size, high = (int(fields.get(key, "0 kB").split()[0]) * 1.024e-3 for key in ("VmRSS", "VmHWM"))
    below = [_tree_mb(child) for child in children]
    total = size + sum(child[0] for child in below)
    return total, high, max([high, *(child[2] for child in below)])
