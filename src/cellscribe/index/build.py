"""Builds an index, and adds to one: new files first, then in one step the header that names them.

Whatever happens before that step, the index that was there stays as it was. What is learnt (how
vectors are compared, what labels are worth, the library's codes) is learnt anew from all cells; a
library's lists and codes, which cost minutes, only when the index has doubled since.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.annotation.calibration import log_calibration
from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.config import AddOptions, IndexOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.index.learn import contradictions, hold_out, learn_column
from cellscribe.index.made_by import made_by, session_for
from cellscribe.index.nearest import EXACT_CELLS, Exact, import_faiss, write_search
from cellscribe.index.parts import write_parts
from cellscribe.index.store import (
    HEADER,
    Header,
    Index,
    commit,
    describe,
    is_ours,
    next_number,
    open_index,
    remove_unnamed,
    verify,
)
from cellscribe.index.vectors import (
    find_references,
)
from cellscribe.index.votes import choose_space, group_numbers, read_codes
from cellscribe.inference.session import Session, open_session, part_of
from cellscribe.lease import lease
from cellscribe.writing import disk_errors, writing

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder

GROWN = 2
"""Growth after which they are learnt anew."""


def build_index(
    sources: Any,
    out: Path,
    options: IndexOptions,
    *,
    model: str | Path | Embedder | None = None,
    log: Log,
    progress: Progress | None = None,
) -> Index:
    """Build an index of all cells of some sources.

    Parameters
    ----------
    sources
        What `find_references` takes.
    out
        The folder.
    options
        Columns and all the rest.
    model
        In place of that of `options`.
    log
        Called with each line that a user should read.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        Bad input, an output that is there already.
    """
    if options.search == "approximate":
        import_faiss()
    if not options.label:
        raise InputError("say which column of obs holds the labels: --label")
    with lease(out):
        _check_out(out, overwrite=options.overwrite)
        with open_session(model, options, log=log) as session, _cleared(out):
            chosen = part_of(ModelOptions, options)
            choices = {field.name: getattr(chosen, field.name) for field in fields(ModelOptions)}
            header: Header = {
                "format": "cellscribe index",
                "version": 2,
                "model": made_by(session, _model_name(session, options.model), choices),
                "labels": list(options.label),
                "obs": list(options.obs),
                "group": options.group,
                "settings": {
                    "n_neighbors": options.n_neighbors,
                    "accuracy": options.accuracy,
                    "min_cells": options.min_cells,
                    "folds": options.folds,
                    "seed": options.seed,
                    "dtype": options.dtype,
                    "search": options.search,
                },
                "parts": [],
                "space": {"kind": "cosine", "mean": [], "scale": []},
                "columns": {},
                "search": None,
                "searched_cells": 0,
            }
            parts = write_parts(find_references(sources), session, out, header, options, progress)
            return _finish(out, {**header, "parts": parts}, log, progress)


def add_to_index(
    folder: Path,
    sources: Any,
    options: AddOptions,
    *,
    log: Log,
    progress: Progress | None = None,
) -> Index:
    """Add the cells of further sources to an index; sources that it has already are left out.

    Raises
    ------
    InputError
        Bad input, a damaged index, a source under the name of another.
    """
    open_index(folder)
    with lease(folder), _cleared(folder), ExitStack() as stack:
        # read again: another process may have added since
        index = open_index(folder)
        verify(index)
        session = stack.enter_context(session_for(index, options, options.model, log=log))
        there = {part["name"]: part["hash"] for part in index.header["parts"]}
        references = []
        for reference in find_references(sources):
            known = there.get(reference.name)
            if known is None:
                references.append(reference)
            elif known != reference.hash or not known:
                raise InputError(
                    f"{folder} has other cells named {reference.name}; list the source in a CSV "
                    "with the columns path and name"
                )
            else:
                log(f"{reference.name} is in the index already, and left out.")
        if not references:
            return index
        parts = write_parts(references, session, folder, index.header, options, progress)
        header: Header = {**index.header, "parts": [*index.header["parts"], *parts]}
        return _finish(folder, header, log, progress)


@contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """Make a folder where there is none; at the end nothing is in it that its header does not name.

    A process that is killed leaves such files; the next one removes them.
    """
    folder.mkdir(exist_ok=True)
    try:
        with disk_errors(folder):
            yield
    finally:
        header = open_index(folder).header if (folder / HEADER).exists() else None
        remove_unnamed(folder, header)
        if header is None and not any(folder.iterdir()):
            folder.rmdir()


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not an index, and one that is unless it may be replaced."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise InputError(f"{out} is no folder; name another output")
    if (out / HEADER).exists():
        if not overwrite:
            raise InputError(
                f"{out} exists already; add to it (cellscribe index add), give --overwrite to "
                "replace it, or another name"
            )
        open_index(out)
        return
    # what a killed build left is an index's files without a header
    foreign = sorted(path.name for path in out.iterdir() if not is_ours(path))
    if foreign:
        raise InputError(f"{out} holds {foreign[0]}, and is no index; name another folder")


def _model_name(session: Session, named: str) -> str:
    """Name by which the model is found again: that of a bundled one, or a path."""
    folder = session.header.directory
    return named if not Path(named).exists() and folder.name == named else str(folder.resolve())


def _finish(folder: Path, header: Header, log: Log, progress: Progress | None) -> Index:
    """Learn what labels are worth, write the library's file where it is wanted, and commit."""
    settings = header["settings"]
    options = IndexOptions(
        label=tuple(header["labels"]),
        n_neighbors=settings["n_neighbors"],
        accuracy=settings["accuracy"],
        min_cells=settings["min_cells"],
        folds=settings["folds"],
        seed=settings["seed"],
    )
    step = in_step(progress, "Learning what the labels are worth")
    index = Index(folder, header)
    columns = [read_codes(index, name, options.min_cells) for name in header["labels"]]
    groups = group_numbers(index)
    if header["group"] is None:
        log(
            "Warning: no --group: cells of one donor stand on both sides of what is held out, so "
            "that the held-out figures are too good for cells of a new donor."
        )
    approximate = settings["search"] == "approximate" or (
        settings["search"] == "auto" and index.n_cells >= EXACT_CELLS and _has_faiss(log)
    )
    learn = index.n_cells >= GROWN * settings.get("learnt_on", 0) or not approximate
    if learn:
        header["space"] = choose_space(index, columns[0], groups, options.seed)
        settings["learnt_on"] = index.n_cells
    search = Exact(index)
    held = hold_out(search, groups, columns[0], options.n_neighbors, options.seed)
    header["columns"] = {}
    for number, labels in enumerate(columns):
        if step is not None:
            step(number, len(columns))
        column, calibration = learn_column(search, held, labels, groups, options)
        header["columns"][labels.name] = column
        log(f"{labels.name}: {calibration.summary()}")
        log_calibration(calibration, log)
    for line in contradictions(header["columns"]):
        log(line)
    if approximate:
        _write_search(index, learn=learn)
    else:
        header["search"], header["searched_cells"] = None, 0
    return commit(folder, header)


def _has_faiss(log: Log) -> bool:
    """Whether faiss is installed; says what its absence costs."""
    found = importlib.util.find_spec("faiss") is not None
    if not found:
        log(
            "faiss is not installed: every query is compared with every cell, which is slow for so "
            'many; pip install "cellscribe[index]"'
        )
    return found


def _write_search(index: Index, *, learn: bool) -> None:
    header = index.header
    path = index.folder / f"search-{next_number(index.folder):05}.faiss"
    with writing(path) as partial:
        write_search(index, partial, None if learn else header["search"], header["searched_cells"])
    header["search"], header["searched_cells"] = describe(path), index.n_cells
