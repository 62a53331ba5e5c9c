"""Whether so many workers have room in the memory of this machine."""

from __future__ import annotations

from pathlib import Path

from cellscribe.errors import InputError

FLOOR = 1_600_000_000
"""Bytes that a worker takes besides its model's weights: Python, torch, the gene tables, batches.
The largest of two workers over 200 files of 5,000 cells (``benchmarks/results/shards.json``); a
source stored by genes takes more."""


def refuse_workers(workers: int, weights: int) -> None:
    """Refuse more workers than can be in memory at once.

    Parameters
    ----------
    workers
        Processes on this machine.
    weights
        Bytes of the model's files.

    Raises
    ------
    InputError
        They would not fit; says how many do.
    """
    available = available_memory()
    if available is None or workers == 1:
        return
    each = FLOOR + weights
    if workers * each > available:
        most = max(1, available // each)
        raise InputError(
            f"{workers:,} workers need {workers * each / 1e9:,.1f} GB of memory or more, and "
            f"{available / 1e9:,.1f} GB are free here; no more than --workers {most} fit"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that new processes may take: of the machine, and of the containers that we are in.

    Parameters
    ----------
    root
        Folder that holds ``proc`` and ``sys``.

    Returns
    -------
    int or None
        None where the system does not tell.
    """
    found = [room for folder in _groups(root) if (room := _room(folder)) is not None]
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return min(found, default=None)


def _groups(root: Path) -> list[Path]:
    """Control groups that bound us: our own of each kind, and those above it."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            top = root / "sys/fs/cgroup" / kinds
            inside = top / path.lstrip("/")
            # in a container the path may be the host's, which is not there
            found += [group for group in (inside, *inside.parents) if group.is_relative_to(top)]
    return found


def _room(group: Path) -> int | None:
    """Bytes that are left in a control group; what it keeps of files can be given back."""
    for most, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, taken = _text(group / most).strip(), _text(group / used).strip()
        if limit.isdecimal() and taken.isdecimal():
            kept = 0
            for line in _text(group / "memory.stat").splitlines():
                if line.startswith(f"{cached} "):
                    kept = int(line.split()[1])
            return max(0, int(limit) - int(taken) + kept)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
