"""SIGKILL at a random moment of every verb that writes, and what is left afterwards.

A killed run must leave nothing half written under its final name and every input as it was; the
same call again (with ``resume`` where a verb has it) must give what an undisturbed run gives, and
leave nothing else behind.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile import farm, targets
from hostile.judge import Case, Verdict, copy, snapshot
from hostile.targets import FLAT, Found, Place

KILL = "kill"


@dataclass(frozen=True)
class Verb:
    """A call that writes, and how what it wrote is read back."""

    kind: str
    """The input."""
    call: Callable[[Place], Any]
    read: Callable[[Path], Found]
    """Reads the finished output; FileNotFoundError where there is none under its final name."""


def _embed(name: str) -> Callable[[Place], Any]:
    def call(at: Place) -> None:
        import cellscribe

        # what is whole already is made again: a killed run may have left more behind
        options = cellscribe.EmbedOptions(resume=True, overwrite=True, **FLAT)
        cellscribe.embed_file(at.source, at.out / name, options, model=at.model, log=at.log)

    return call


def _npy(out: Path) -> Found:
    return {"vectors": np.load(out / "out.npy"), "about": _bytes(out / "out.npy.json")}


def _h5ad(out: Path) -> Found:
    import h5py

    _there(out / "out.h5ad")
    with h5py.File(out / "out.h5ad") as file:
        return {"vectors": file["obsm/X_cellscribe"][()]}


def _zarr(out: Path) -> Found:
    import zarr

    _there(out / "out.zarr")
    return {"vectors": np.asarray(zarr.open_group(str(out / "out.zarr"))["obsm/X_cellscribe"])}


def _files(*names: str) -> Callable[[Path], Found]:
    return lambda out: {name: _bytes(out / name) for name in names}


def _bytes(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), np.uint8)


def _there(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(path)


def _tokenize(at: Place) -> None:
    import cellscribe

    cellscribe.tokenize(
        at.source, at.out / "out.parquet", model=at.model, overwrite=True, log=at.log
    )


def _train(at: Place) -> None:
    from support.training import run_training

    run_training(at.source, at.out / "run", resume=True, log=at.log, checkpoint_every=3)


def _finetune(at: Place) -> None:
    import cellscribe

    cellscribe.finetune(
        at.model, at.source, at.out / "model", label="cell_type", overwrite=True, log=at.log, **FLAT
    )


def _annotate(at: Place) -> None:
    import cellscribe

    options = cellscribe.AnnotateOptions(
        reference=str(farm.source_of(at.farm, "reference")),
        label="cell_type",
        accuracy=0.5,
        overwrite=True,
        **FLAT,
    )
    cellscribe.annotate_file(at.source, at.out / "out.csv", options, model=at.model, log=at.log)


def _import(at: Place) -> None:
    import cellscribe

    source = at.source / "it" / "Geneformer-V2-104M"
    cellscribe.import_model(source, at.out / "model", overwrite=True, log=at.log)


def _export(at: Place) -> None:
    import cellscribe

    cellscribe.export_model(at.source, at.out / "hf", overwrite=True)


def _genes(at: Place) -> None:
    import cellscribe

    options = cellscribe.GenesOptions(overwrite=True, **FLAT)
    cellscribe.embed_genes_file(
        at.source, at.out / "genes.parquet", options, model=at.model, log=at.log
    )


def _evaluate(at: Place) -> None:
    import cellscribe

    cellscribe.evaluate(
        at.model,
        at.source,
        at.out / "evaluation",
        task="confounding",
        seeds=1,
        bootstrap=20,
        max_cells=60,
        log=at.log,
        **FLAT,
    )


def _results(out: Path) -> Found:
    import json

    found: Found = {}
    for path in sorted((out / "evaluation" / "results").glob("*.json")):
        told = json.loads(path.read_text())
        found[path.name] = np.array(json.dumps(told["scores"], sort_keys=True))
    if not found:
        raise FileNotFoundError(out)
    return found


def _corpus(out: Path) -> Found:
    from cellscribe.corpus.store import open_corpus

    _there(out / "corpus" / "manifest.json")
    made = open_corpus(out / "corpus", deep=True)
    return {"hash": np.array(made.hash)}


WEIGHTS = "model/model.safetensors"
VERBS: dict[str, Verb] = {
    "embed to .npy": Verb("h5ad", _embed("out.npy"), _npy),
    "embed to .h5ad": Verb("h5ad_rich", _embed("out.h5ad"), _h5ad),
    "embed to .zarr": Verb("h5ad_rich", _embed("out.zarr"), _zarr),
    "embed to .parquet": Verb("mtx", _embed("out.parquet"), _files("out.parquet")),
    "embed a loom": Verb("loom", _embed("out.npy"), _npy),
    "tokenize": Verb("h5ad", _tokenize, _files("out.parquet")),
    "corpus build": Verb("h5ad_rich", targets.build, _corpus),
    "train": Verb("corpus", _train, _files(f"run/{WEIGHTS}", "run/model/genes.tsv")),
    "finetune": Verb("reference", _finetune, _files(WEIGHTS, "model/head.safetensors")),
    "annotate": Verb("h5ad", _annotate, _files("out.csv")),
    "import": Verb("published_geneformer", _import, _files(WEIGHTS, "model/genes.tsv")),
    "export": Verb("checkpoint", _export, _files("hf/model.safetensors", "hf/config.json")),
    "genes": Verb("h5ad", _genes, _files("genes.parquet")),
    "evaluate": Verb("reference", _evaluate, _results),
}
MANY = {"evaluate"}
"""Verbs whose output grows file by file: what is there must be right, not all of it be there."""


def run(case: Case, clean: Path, folder: Path) -> Verdict:
    """Kill one run, and look; then run again, and look again."""
    verb, rng = VERBS[case.kind], random.Random(f"{case.kind} {case.seed}")
    whole, names, seconds = undisturbed(case.kind, clean)
    place = _place(verb, clean, folder)
    before = snapshot(place.source.parent / place.source.name)
    delay = rng.uniform(0, 1.05 * seconds)
    told = f"killed after {delay:.3f} of {seconds:.3f} s"
    _forked(verb, place, folder, delay)
    if snapshot(place.source) != before:
        return Verdict("harm", told, "an input was changed")
    try:
        found = verb.read(place.out)
        if not _same(found, whole, some=case.kind in MANY):
            return Verdict("partial", told, "another output than that of an undisturbed run")
    except FileNotFoundError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the output is not whole
        return Verdict("partial", told, f"half written: {type(error).__name__}: {error}")
    if error := _forked(verb, place, folder, None):
        return Verdict("traceback", told, f"again: {error}")
    if not _same(verb.read(place.out), whole):
        return Verdict("wrong", told, "the second run gives another result")
    if snapshot(place.source) != before:
        return Verdict("harm", told, "an input was changed by the second run")
    more = sorted(set(snapshot(place.out)) - names)
    if more:
        return Verdict("partial", told, f"left over: {', '.join(more[:4])}")
    return Verdict("ok", told)


def undisturbed(name: str, clean: Path) -> tuple[Found, set[str], float]:
    """What a run gives that nobody kills: its output, the names of its files, its seconds."""
    kept = clean / "clean" / f"kill-{name.replace(' ', '-')}.pickle"
    if not kept.exists():
        verb, folder = VERBS[name], clean / "clean" / f"kill-{os.getpid()}"
        seconds = []
        for _ in range(2):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            place = _place(verb, clean, folder)
            began = time.perf_counter()
            if error := _forked(verb, place, folder, None):
                raise RuntimeError(f"{name}: {error}")
            seconds.append(time.perf_counter() - began)
        told = verb.read(place.out), set(snapshot(place.out)), min(seconds)
        kept.with_suffix(f".{os.getpid()}").write_bytes(pickle.dumps(told))
        kept.with_suffix(f".{os.getpid()}").replace(kept)
        shutil.rmtree(folder)
    found: tuple[Found, set[str], float] = pickle.loads(kept.read_bytes())
    return found


def _place(verb: Verb, clean: Path, folder: Path) -> Place:
    original = farm.source_of(clean, verb.kind)
    (folder / "out").mkdir()
    copy(original, folder / original.name)
    return Place(folder / original.name, folder / "out", clean, verb.kind)


def _forked(verb: Verb, place: Place, folder: Path, delay: float | None) -> str:
    """Run in a process of its own, killed after so many seconds; says what it raised."""
    told = folder / "raised.txt"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with (folder / "terminal.txt").open("w") as log, contextlib.redirect_stderr(log):
                verb.call(place)
            status = 0
        except BaseException as error:  # noqa: BLE001
            told.write_text("".join(traceback.format_exception_only(error)).strip()[:500])
        finally:
            os._exit(status)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raised = told.read_text() if told.exists() else ""
    told.unlink(missing_ok=True)
    return raised


def _same(found: Found, whole: Found, *, some: bool = False) -> bool:
    names = found.keys() if some else found.keys() | whole.keys()
    return all(
        name in found and name in whole and np.array_equal(found[name], whole[name])
        for name in names
    )
