"""The command line called from a test, and the files that it is called with."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import scipy.sparse as sp

from support.formats import annotated
from support.tiny import N_GENES, real_genes, some_counts

DENSE = some_counts(40)
COUNTS = sp.csr_matrix(DENSE)
MOUSE = [f"ENSMUSG{i:011d}" for i in range(1, N_GENES + 1)]
TITLE = [symbol.title() for symbol in real_genes(N_GENES)[1]]


@dataclass
class Ran:
    status: int
    out: str
    err: str


Cli = Callable[..., Ran]


def call(*words: Any, capsys: Any) -> Ran:
    """Run the command line in this process."""
    from cellscribe import cli

    return run_program(cli.main, *words, capsys=capsys)


def call_benchmarks(*words: Any, capsys: Any) -> Ran:
    """Run ``python -m benchmarks`` in this process."""
    from benchmarks import __main__ as program

    return run_program(program.main, *words, capsys=capsys)


def run_program(main: Callable[[list[str]], None], *words: Any, capsys: Any) -> Ran:
    """Run a program's main function, and return its status and what it printed."""
    status = 0
    # the program takes over a signal that belongs to pytest
    before = signal.getsignal(signal.SIGTERM)
    try:
        main([str(word) for word in words])
    except SystemExit as leave:
        status = leave.code or 0
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capsys.readouterr()
    return Ran(status, out, without_notes(err))


def without_notes(err: str) -> str:
    """Standard error without what a CPU that has no bf16 products is told."""
    from cellscribe.model.device import SLOW_CPU

    return "".join(
        line for line in err.splitlines(keepends=True) if line.strip() not in SLOW_CPU.values()
    )


def refused(ran: Ran) -> str:
    """The one line of a refusal."""
    assert ran.status == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("cellscribe: ")
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    return ran.err


def nothing_new(folder: Path, *there: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(there)


def write(path: Path, x: Any, **more: Any) -> Path:
    annotated(x, real_genes, **more).write_h5ad(path)
    return path


def renamed(path: Path, names: list[str]) -> Path:
    adata = ad.AnnData(
        X=COUNTS, obs=pd.DataFrame(index=[str(i) for i in range(40)]), var=pd.DataFrame(index=names)
    )
    adata.write_h5ad(path)
    return path
