"""What a model thinks a gene does: take it out of cells, or put it in front, and see what moves.

In-silico perturbation as Geneformer has it (Theodoris et al., Nature 2023): which cells and genes,
and a table of them. How a cell is edited is in ``perturb_edits.py`` and
``perturb_counts.py``, how the table is made in ``perturb_statistics.py``.

Letters: ``B`` cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.cells.columns import text_column
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.config import PerturbOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.perturbation.statistics import NULL, Shifts, tabulate
from cellscribe.writing import check_target, writing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from cellscribe.cells.genes import GeneMap
    from cellscribe.families.registry import ModelHeader
    from cellscribe.perturbation.by_tokens import Edits


FORMS = (".csv", ".parquet")


def perturb(
    source: str | Path | AnnData,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> pd.DataFrame:
    """Delete or promote genes in every cell, and tell how far cells and other genes move.

    Parameters
    ----------
    source
        AnnData or a file of any known format. Raw counts.
    progress
        Told (cells or genes done, in all).
    log
        Told, a line each, what a user should know.
    **settings
        Fields of `config.PerturbOptions`: model, genes (Ensembl ids or symbols) or top, mode,
        combine, group_by, start, goal, cells, seed, ...

    Returns
    -------
    pandas.DataFrame
        A row a group and gene, in each group the largest move first. ``n_cells``: cells that were
        edited; deleted from are only those in which the model reads the gene. ``shift`` and
        ``shift_sd``: mean and deviation of 1 - cosine between a cell's vectors with and without the
        edit. ``gene_shift``: the same of the contextual vectors of the genes that are in both, mean
        over genes, then cells; NaN for a family whose genes cannot be followed. ``p``: Mann-Whitney
        test of a gene's shifts against those of all others perturbed in the group; of a single gene
        against random genes of like rank in the same cells (like rank: at most a tenth of the
        cell's genes apart; five a cell, drawn with the seed). ``fdr``: Benjamini-Hochberg
        over the genes of a group. With a goal, ``towards_goal``: change of the cosine to the goal's
        centre less that of the cosine to the start's, with ``goal_p`` and ``goal_fdr``.

    Raises
    ------
    InputError
        Bad input or options; a gene that the model does not know or that no cell shows.
    """
    if "genes" in settings:
        genes = settings["genes"]
        settings["genes"] = (genes,) if isinstance(genes, str) else tuple(genes)
    if "model" in settings:
        settings["model"] = str(settings["model"])
    options = from_mapping(PerturbOptions, settings, "perturb")
    return _perturb(source, options, progress, log)


def write_perturbed(
    source: str | Path,
    out: str | Path,
    options: PerturbOptions,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Write what `perturb` finds to a ``.csv`` or ``.parquet``, which appears when it is whole.

    Raises
    ------
    InputError
        As `perturb`; another form of output, or one that exists.
    """
    out = Path(out)
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in {' or '.join(FORMS)}")
    check_target(out, Path(source), overwrite=options.overwrite)
    table = _perturb(source, options, progress, log)
    with writing(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
    return table


def _perturb(
    source: str | Path | AnnData,
    options: PerturbOptions,
    progress: Progress | None,
    log: Log,
) -> pd.DataFrame:
    from cellscribe.families.registry import RankedHeader, read_model

    _check(options)
    header = read_model(options.model)
    if options.mode == "promote" and not isinstance(header, RankedHeader):
        raise InputError(
            f"{header.name}: --mode promote puts a gene in front of a ranking, and the family "
            f"{header.family} has none; use --mode delete"
        )
    named = find_genes(header, options.genes)
    with open_counts(source, layer=options.layer, log=log) as counts:
        genes = header.map_genes(counts.var, gene_key=options.gene_key, name=counts.name)
        cohort = _cohort(counts, options, log)
        block = _read(counts, cohort.rows)
        goal = None if cohort.goal is None else _read(counts, cohort.goal)
        name = counts.name
    edits = _edits(block, genes, named, options, name)
    # torch takes its time to import: all that can be refused without it is behind us.
    from cellscribe.inference.embedder import load
    from cellscribe.perturbation.by_counts import by_counts, direction_to
    from cellscribe.perturbation.by_tokens import by_tokens

    embedder = load(
        options.model, device=options.device, precision=options.precision, threads=options.threads
    )
    if embedder.note:
        log(embedder.note)
    direction = None if goal is None else direction_to(embedder, block, goal, genes)
    work = by_tokens if isinstance(header, RankedHeader) else by_counts
    parts = work(embedder, block, genes, edits, direction, progress)
    shifts = Shifts.concatenate(list(parts))
    if not (shifts.edit != NULL).any():
        raise InputError(
            f"{name}: none of the {len(block.indptr) - 1:,} cells shows the gene to the model "
            f"({', '.join(edits.names(header.table)['symbol'][:3])}); name others, or look at "
            "more --cells"
        )
    return tabulate(
        shifts, edits.names(header.table), cohort.group, cohort.names, with_goal=goal is not None
    )


def _check(options: PerturbOptions) -> None:
    """Refuse what options say of each other."""
    if not options.genes and options.top is None:
        raise InputError("name genes to perturb with --genes, or so many of them with --top")
    if options.combine and (options.top is not None or len(set(options.genes)) < 2):
        raise InputError("--combine perturbs two or more --genes together, and takes no --top")
    if options.group_by is None and (options.start is not None or options.goal is not None):
        raise InputError("--start and --goal are values of a column of obs; name it: --group-by")
    if options.goal is not None and options.start is None:
        raise InputError("--goal needs --start, the value of --group-by whose cells are perturbed")
    if options.goal is not None and options.goal == options.start:
        raise InputError(f"--start and --goal are both {options.goal!r}; name two values")


def find_genes(header: ModelHeader, names: Sequence[str]) -> list[int]:
    """Tokens of genes that are named by Ensembl id, symbol or an older symbol, each once.

    Raises
    ------
    InputError
        The model knows no such gene; the line names one that is spelled nearly so.
    """
    from cellscribe.cells.genes import resolve

    table = header.table
    spelled = {symbol: token for token, symbol in reversed(list(enumerate(table.symbols)))}
    spelled |= table.token_of
    real = [name for name in spelled if name and name[0] not in "[<"]
    found = []
    for name in names:
        wanted = name.strip()
        token = spelled.get(wanted) if wanted and wanted[0] not in "[<" else None
        if token is None:
            token = table.token_of.get(resolve([wanted])[0] or wanted)
        if token is None or table.ids[token][0] in "[<":
            raise InputError(f"{header.name} knows no gene {name!r}{_near(wanted, real)}")
        found.append(int(token))
    return list(dict.fromkeys(found))


def _near(name: str, names: Sequence[str]) -> str:
    """Names that are spelled nearly so, as the end of a line."""
    from difflib import get_close_matches

    folded = {each.upper(): each for each in names}
    near = [folded[each] for each in get_close_matches(name.upper(), folded, n=3)]
    return f"; near it: {', '.join(near)}" if near else "; give an Ensembl id or a symbol"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cohort:
    rows: npt.NDArray[np.int64]
    """``[B]`` rows of the file whose cells are perturbed, ascending."""
    group: npt.NDArray[np.int64]
    """``[B]`` number of each cell's group."""
    names: list[str]
    """Of the groups."""
    goal: npt.NDArray[np.int64] | None
    """Rows of cells whose centre is the goal."""


def _cohort(counts: Counts, options: PerturbOptions, log: Log) -> _Cohort:
    """Draw the cells."""
    rng = np.random.default_rng(options.seed)

    def draw(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if len(rows) > options.cells:
            rows = np.sort(rng.choice(rows, options.cells, replace=False))
        return rows

    if options.group_by is None:
        rows = draw(np.arange(counts.n_cells))
        return _Cohort(rows=rows, group=np.zeros(len(rows), np.int64), names=["all"], goal=None)
    labels = text_column(counts.obs, options.group_by, "--group-by", counts.name)
    known = labels != ""
    there = sorted(set(labels[known]))
    for flag, value in (("--start", options.start), ("--goal", options.goal)):
        if value is not None and value not in there:
            raise InputError(
                f"{counts.name}: no cell has {options.group_by} {value!r} ({flag}); there are "
                f"{', '.join(there[:8]) or 'no values'}"
            )
    if not known.any():
        raise InputError(f"{counts.name}: obs column {options.group_by!r} is empty; name another")
    if not known.all():
        log(f"{(~known).sum():,} cells without a {options.group_by} are left out.")
    rows = draw(np.flatnonzero(known if options.start is None else labels == options.start))
    names, group = np.unique(labels[rows], return_inverse=True)
    goal = None if options.goal is None else draw(np.flatnonzero(labels == options.goal))
    return _Cohort(
        rows=rows, group=group.astype(np.int64), names=[str(each) for each in names], goal=goal
    )


def _read(counts: Counts, rows: npt.NDArray[np.int64]) -> csr_matrix:
    """Some rows of opened counts."""
    from scipy.sparse import csr_matrix, vstack

    size, parts = 4_096, []
    for number, block in enumerate(counts.blocks(size)):
        here = rows[(rows >= number * size) & (rows < (number + 1) * size)] - number * size
        parts.append(csr_matrix(block[here], dtype=np.float32))
    return csr_matrix(vstack(parts))


def _edits(
    block: csr_matrix, genes: GeneMap, named: list[int], options: PerturbOptions, name: str
) -> Edits:
    """Decide what is done to the drawn cells."""
    from cellscribe.cells.tokens import known_counts
    from cellscribe.perturbation.by_tokens import Edits

    n_cells = np.bincount(known_counts(block, genes.token).tokens)
    if not n_cells.any():
        raise InputError(f"{name}: no cell has a count on a gene that the model knows")
    shown = np.flatnonzero(n_cells)
    if options.combine:
        tokens = [np.array(named)]
    else:
        often = shown[np.argsort(-n_cells[shown], kind="stable")][: options.top or 0]
        tokens = [np.array([token]) for token in dict.fromkeys([*named, *often.tolist()])]
    return Edits(tokens=tokens, promote=options.mode == "promote", shown=shown, seed=options.seed)
