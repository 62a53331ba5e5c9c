"""Results as JSON: the figures, and all that one needs to judge or repeat them.

One file a measurement, ``NAME.json``, with the machine, the versions and the commit that it was
taken on. Raw seconds are kept; medians and ratios are there for the reader's ease. No host name, no
user name, no path.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError
from cellscribe.model.device import cpu_facts

PACKAGES = (
    "cellscribe",
    "torch",
    "numpy",
    "numba",
    "anndata",
    "pyarrow",
    "transformers",
    "datasets",
)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe this machine: processor, usable cores, memory, versions, and the GPU that is used.

    Parameters
    ----------
    device
        ``"cpu"`` or a CUDA device that takes part in the measurement.
    """
    import torch

    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    facts: dict[str, Any] = {
        "cpu": cpu_facts(),
        "cores": len(usable),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit_state(folder: Path) -> dict[str, Any]:
    """Hash of the commit and whether files differ from it; both None outside a checkout.

    Results and the pages rendered from them do not count as differing: measuring makes them.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", folder, *words], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git(
        "status",
        "--porcelain",
        "--",
        ":/",
        ":(top,exclude)benchmarks/results",
        ":(top,exclude)README.md",
        ":(top,exclude)docs",
    )
    return {"hash": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def write_result(
    folder: Path,
    name: str,
    bench: str,
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    device: str = "cpu",
) -> Path:
    """Write ``folder/name.json`` and return its path; an older result of that name is replaced.

    Parameters
    ----------
    bench
        The table that the result belongs to; several results may share one.
    settings
        What was asked for.
    figures
        What was measured.
    device
        As for `machine`.
    """
    result = {
        "bench": bench,
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit_state(Path(__file__).parent),
        "machine": machine(device),
        "settings": dict(settings),
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read_results(folder: Path, bench: str) -> list[dict[str, Any]]:
    """All results of one table, by file name.

    Raises
    ------
    InputError
        A file in the folder is not a result.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            belongs = result["bench"] == bench
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: not a benchmark result; remove it or measure again"
            ) from None
        if belongs:
            found.append(result)
    return found
