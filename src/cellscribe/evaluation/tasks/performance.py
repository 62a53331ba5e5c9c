"""Speed and memory of embedding a file of cells.

Every repeat is a process of its own: its memory is that of the method alone, and its loading time
is what a user waits for. A process reads the cells from a file, first some of them to warm up, then
all of them timed. The standard workflow, the baseline, is measured in the same way.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cellscribe.cells.pipeline import usable_cores
from cellscribe.config import EvaluateOptions, InputOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import CellProvenance, Cells, Data, read_cells
from cellscribe.evaluation.models import Method, Model, model_options
from cellscribe.evaluation.scores import Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.features import pca

REPEATS = 3
WARM_UP = 64
"""Cells of the first pass, which is not timed."""
COMPONENTS = 50
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that limit the baseline to the cores that models have."""
STATUS = Path("/proc/self/status")
HIGH_WATER = "VmHWM"
"""Linux's name of the highest memory; that of getrusage may be the parent's, before an exec."""

NAME = "performance"
TITLE = "Performance"
ABOUT = (
    "Cells a second from a file (h5ad, uncompressed, in the disk's cache) to vectors: reading, "
    f"tokenising and the network, after a warm-up on {WARM_UP} cells. Median of {REPEATS} "
    "processes; the interval goes from the slowest to the fastest of them. Loading is timed in the "
    "same fresh process, from before torch is imported until the model is ready. Memory is the "
    "process's highest, libraries and the interpreter's own included. Twins of random weights are "
    "left out, as weights do not change the speed. `python -m benchmarks embed` (in a checkout) "
    "measures a model next to the same one in transformers, and its share of the machine's peak."
)
METRICS = {
    "cells_per_second": Metric(
        title="cells/s",
        about="Cells a second from file to vectors, a fit included where there is one.",
        better="higher",
        digits=0,
    ),
    "load_seconds": Metric(
        title="load, s",
        about="Seconds to load the model in a fresh process, imports included.",
        better="lower",
        digits=2,
    ),
    "memory_mb": Metric(
        title="peak memory, MB",
        about="Highest resident memory of the process, MB of 10^6 bytes; told on Linux only.",
        better="lower",
        digits=0,
    ),
    "gpu_memory_mb": Metric(
        title="peak GPU memory, MB",
        about="Most memory that torch held on the GPU, MB of 10^6 bytes.",
        better="lower",
        digits=0,
    ),
    "gflop_per_second": Metric(
        title="GFLOP/s",
        about="Work of a BERT's matrix products and attention, padding not counted, over the whole "
        "time from file to vectors.",
        better="higher",
        digits=0,
    ),
}
HEADLINES = ("cells_per_second",)
PCA_BASELINE = f"log-norm PCA-{COMPONENTS}"
BASELINES = (PCA_BASELINE,)
EXTRA_BASELINES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Cells whose embedding is timed."""

    name: str
    models: Sequence[Model]
    cells: Cells
    options: EvaluateOptions

    @cached_property
    def about(self) -> dict[str, Any]:
        """Sizes, and the machine."""
        return {"cells": self.cells.n_cells, "repeats": REPEATS, **self._machine}

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.cells.provenance

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The cells, the machine, and how it is used."""
        return {
            "cells": self.cells.hash,
            "repeats": REPEATS,
            "warm up": WARM_UP,
            "device": self.options.device,
            **self._machine,
        }

    @cached_property
    def _machine(self) -> dict[str, Any]:
        import torch

        from cellscribe.model.device import choose_device, cpu_facts

        facts = {
            "cpu": cpu_facts()["model"],
            "threads": self.options.threads or usable_cores(),
        }
        device = choose_device(self.options.device)
        if device.type == "cuda":
            facts["gpu"] = torch.cuda.get_device_name(device)
        return facts


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Measurements of one process."""

    cells: int
    """Cells that were embedded while timed."""
    seconds: float
    """From file to vectors."""
    load_seconds: float | None = None
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Timings:
    """All repeats of a method, and the work of each."""

    repeats: list[Repeat]
    gflop: float | None = None
    """Work of the network, 10^9 operations; None where it is not known."""


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Make a case of the cells of a file.

    Raises
    ------
    UnfitError
        It is a corpus, whose cells have been tokenised before.
    """
    if data.cells is None:
        raise UnfitError(
            f"{data.name} is a corpus, and {NAME} goes from counts to vectors: give a file of cells"
        )
    timed = [model for model in models if not model.random]
    return [Case(name=data.name, models=timed, cells=data.cells, options=options)]


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: the cells are embedded several times, in a process each."""

    def predict() -> Timings:
        job = {
            "model": model.path,
            **model.device_settings,
            "options": dataclasses.asdict(model_options(case.options)),
        }
        return Timings(repeats=_repeat(case, job), gflop=gflop(model, case.cells))

    return [Method(name=model.name, kind="model", predict=predict, model=model)]


def baselines(case: Case) -> list[Method]:
    """Return the row of the standard workflow, fitted several times, in a process each."""
    return [
        Method(
            name=PCA_BASELINE,
            kind="baseline",
            predict=lambda: Timings(repeats=_repeat(case, {"model": None})),
        )
    ]


def score(case: Case, prediction: Timings, seed: int) -> Scores:
    """Return medians of the repeats, with least and most as interval; the same for every seed."""
    repeats = prediction.repeats
    short = [repeat.cells for repeat in repeats if repeat.cells != case.cells.n_cells]
    if short:
        raise ValueError(f"{short[0]} of {case.cells.n_cells} cells were embedded")
    rates: dict[str, list[float]] = {
        "cells_per_second": [repeat.cells / repeat.seconds for repeat in repeats]
    }
    for name in ("load_seconds", "memory_mb", "gpu_memory_mb"):
        values = [getattr(repeat, name) for repeat in repeats]
        if None not in values:
            rates[name] = values
    if prediction.gflop is not None:
        rates["gflop_per_second"] = [prediction.gflop / repeat.seconds for repeat in repeats]
    return Scores(estimates={name: _middle(values) for name, values in rates.items()})


def gflop(model: Model, cells: Cells) -> float | None:
    """Count 10^9 floating-point operations of embedding all cells; None for other than BERTs.

    Layers above the one that is read are not run and do not count.
    """
    from cellscribe.cells.pipeline import token_blocks
    from cellscribe.families.bert.model import Bert
    from cellscribe.model.encoder import flops_per_cell

    network = model.embedder.cells
    if not isinstance(network, Bert):
        return None
    run = network.config.num_hidden_layers + 1 + network.rule.hidden_layer
    config = dataclasses.replace(network.config, num_hidden_layers=run)
    with cells.open() as counts:
        genes = model.header.map_genes(
            counts.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
        )
        lengths = [
            int(length)
            for block in token_blocks(counts, genes, network.tokenize)
            for length in network.places(block)
        ]
    return 1e-9 * sum(flops_per_cell(config, length) for length in lengths)


def measure(job: Mapping[str, Any], clock: Callable[[], float] = time.perf_counter) -> Repeat:
    """Load a model and embed a file in this process, timed.

    Parameters
    ----------
    job
        `path` of the cells, `warm_up` of the first ones; `model`, `device`, `precision`, `threads`
        and `options` as for `inference.embedder.load`, `model` None for the baseline; `gene_key`
        and `species`.
    clock
        Returns seconds.
    """
    begun = clock()
    embed, device = _ready(job)
    loaded = clock() - begun
    embed(job["warm_up"])
    begun = clock()
    n_cells = len(embed(job["path"]))
    seconds = clock() - begun
    held = None
    if device.startswith("cuda"):
        import torch

        held = torch.cuda.max_memory_allocated(device) * 1e-6
    return Repeat(
        cells=n_cells,
        seconds=seconds,
        load_seconds=loaded if job["model"] is not None else None,
        memory_mb=peak_memory_mb(),
        gpu_memory_mb=held,
    )


def peak_memory_mb() -> float | None:
    """Return the highest resident memory of this process, MB of 10^6 bytes; None without Linux."""
    if not STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[HIGH_WATER].split()[0]) * 1.024e-3


def _ready(job: Mapping[str, Any]) -> tuple[Callable[[str], Any], str]:
    """Return a function that makes vectors of a file, and its device."""
    if job["model"] is None:
        # all of the file: its cells are drawn already
        options = EvaluateOptions(max_cells=sys.maxsize, counts=job.get("counts", "raw"))
        return lambda path: pca(read_cells(Path(path), options).counts, COMPONENTS), "cpu"
    from cellscribe.cells.counts import open_counts
    from cellscribe.inference.embedder import load as load_model

    found = load_model(
        job["model"],
        device=job["device"],
        precision=job["precision"],
        threads=job["threads"],
        options=ModelOptions(**job.get("options", {})),
    )

    def embed(path: str) -> Any:
        options = InputOptions(counts=job.get("counts", "raw"))
        return found.embed(
            open_counts(path, options=options, trusted=True),
            gene_key=job["gene_key"],
            species=job.get("species", "human"),
        )

    return embed, str(found.device)


def _repeat(case: Case, job: Mapping[str, Any], repeats: int = REPEATS) -> list[Repeat]:
    """Measure in fresh processes, one after the other."""
    cells = case.cells
    with tempfile.TemporaryDirectory(prefix="cellscribe-") as folder:
        path, warm_up = Path(folder, "cells.h5ad"), Path(folder, "warm_up.h5ad")
        _write(cells, cells.n_cells, path)
        _write(cells, min(WARM_UP, cells.n_cells), warm_up)
        whole = {
            "threads": case.options.threads,
            **job,
            "path": str(path),
            "warm_up": str(warm_up),
            "gene_key": cells.gene_key,
            "species": cells.species,
            "counts": cells.kind,
        }
        return [_in_a_process(whole) for _ in range(repeats)]


def _in_a_process(job: Mapping[str, Any]) -> Repeat:
    """Run `measure` in a fresh process.

    Raises
    ------
    InputError
        The process failed; its last line is in the message.
    """
    cores = str(job["threads"] or usable_cores())
    code = f"from {__name__} import run_job; run_job()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(job),
        env={**os.environ, **dict.fromkeys(THREADS, cores)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise InputError(f"the process that was to be timed failed: {last[0]}")
    return Repeat(**json.loads(done.stdout.splitlines()[-1]))


def run_job() -> None:
    """Read a job from standard input, measure it and print the result; for a fresh process."""
    print(json.dumps(vars(measure(json.load(sys.stdin)))))


def _write(cells: Cells, n: int, path: Path) -> None:
    """Write the first cells as an h5ad of counts and genes."""
    import anndata
    import pandas as pd

    obs = pd.DataFrame(index=[str(place) for place in range(n)])
    # text columns of other formats may hold what HDF5 does not
    mixed = [name for name in cells.var if cells.var[name].dtype == object]
    var = cells.var.astype(dict.fromkeys(mixed, str)).rename_axis(None)
    anndata.AnnData(cells.counts[:n], obs=obs, var=var).write_h5ad(path)


def _middle(values: Sequence[float]) -> Estimate:
    return Estimate(value=statistics.median(values), low=min(values), high=max(values))
