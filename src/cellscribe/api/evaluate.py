"""The verb evaluate: models compared with baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import CountsKind, EvaluateOptions, Precision, Species, choose_options
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.session import choose_model
from cellscribe.lease import lease, sweep_inside

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.evaluation.results import Result
    from cellscribe.inference.embedder import Embedder


@former_keywords(say="log", cells="max_cells")
def evaluate(
    models: str | Path | Embedder | Sequence[str | Path | Embedder],
    data: str | Path | AnnData | Sequence[str | Path | AnnData],
    out: str | Path,
    options: EvaluateOptions | None = None,
    *,
    task: str | Sequence[str] = "core",
    label: str | None = None,
    group: str | None = None,
    batch: str | None = None,
    condition: str | None = None,
    gene_list: str | Path | None = None,
    max_cells: int | None = None,
    seeds: int | None = None,
    seed: int | None = None,
    bootstrap: int | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    overwrite: bool | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> list[Result]:
    """Evaluate models on data, next to baselines and random weights; write results and a report.

    Parameters
    ----------
    models
        Bundled models' names, checkpoint directories, folders of training runs, or loaded models.
    data
        Files of cells in any known format, or AnnData, which are written to ``OUT/data`` first;
        for ``mlm`` corpora too.
    out
        Folder of the evaluation, made if it is not there: ``results/*.json``, ``report.md``,
        ``report.html``, and vectors that later runs read.
    options
        All settings at once, in place of the keywords from `label` to `overwrite`.
    task
        Names of tasks, ``"core"`` or ``"full"``. A task that is named must fit all data; suites
        pass over what does not fit, and say so.
    label, group, batch, condition
        Columns of obs: cell types, groups that no fold splits, batches, perturbations.
    gene_list
        Genes and their labels, for the task ``genes``.
    max_cells
        Most cells of a file that are used, drawn at random (4,000).
    seeds, seed, bootstrap
        Repetitions, seed of the first one, draws for the intervals.
    layer, gene_key, species, modality, table, counts, pool, hidden_layer, device, precision,
    threads
        As for `embed`.
    overwrite
        Measure anew what the folder of results already has.
    progress
        Called with (parts done, parts in all, what is being done).
    log
        Called with each line that a user should read.

    Returns
    -------
    list of Result
        Results of this call, read or measured.

    Raises
    ------
    InputError
        No such model, task or data; data that do not fit a task that was named, or no task at all.
    """
    given: dict[str, Any] = {
        "label": label,
        "group": group,
        "batch": batch,
        "condition": condition,
        "gene_list": None if gene_list is None else Path(gene_list),
        "max_cells": max_cells,
        "seeds": seeds,
        "seed": seed,
        "bootstrap": bootstrap,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "device": device,
        "precision": precision,
        "threads": threads,
        "overwrite": overwrite,
    }
    options = choose_options(EvaluateOptions, options, "evaluate", given)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with -o")
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first")
    chosen = [choose_model(model, options) for model in _listed(models)]
    if not chosen:
        raise InputError("name a model: a bundled one, such as mini, or a folder")
    sources = _listed(data)
    if not sources:
        raise InputError("name data with --data: files of cells, or a corpus")
    from cellscribe.evaluation.results import FOLDER
    from cellscribe.evaluation.suite import VECTORS, run_suite
    from cellscribe.report.evaluation_page import write_report

    tasks = [str(name) for name in _listed(task)]
    with lease(out):
        for name in ("", "data", FOLDER, VECTORS):
            sweep_inside(out / name)
        files = [_as_file(source, number, out) for number, source in enumerate(sources)]
        results = run_suite(chosen, files, out, options, tasks, progress=progress, log=log)
        for sentence in write_report(out):
            log(sentence)
    return results


def _listed(one_or_more: Any) -> list[Any]:
    if isinstance(one_or_more, Sequence) and not isinstance(one_or_more, str):
        return list(one_or_more)
    return [one_or_more]


def _as_file(source: str | Path | AnnData, number: int, out: Path) -> str | Path:
    """A file's path, or where an AnnData was written to."""
    if isinstance(source, str | Path):
        from cellscribe.cells.readers.foreign_files import refuse_url

        if url := refuse_url(str(source)):
            raise InputError(url)
        return source
    from cellscribe.writing import writing

    path = out / "data" / f"adata{number + 1}.h5ad"
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as partial:
        source.write_h5ad(partial)
    return path
