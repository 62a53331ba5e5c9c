"""One case, run in this process and judged.

Outcomes that are right: ``ok`` (the clean input's result), ``changed`` (another one, which an
independent reader agrees with), ``free`` (another one, and no second reader), ``unjudged`` (the
second reader cannot read it), ``refused`` (InputError, one short line).
Faults: ``wrong``, ``nan``, ``traceback``, ``memory``, ``message``, ``partial`` (something left over
or half written), ``harm`` (an input or a decoy was changed); and in `hostile.pool` ``signal`` and
``hang``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile import damage, farm, lies, lies_hdf5, oracle, reduced
from hostile.targets import TARGETS, Found, Place

from cellscribe.errors import InputError

RIGHT = ("ok", "changed", "free", "unjudged", "refused")
LONGEST = 800
REDUCED = "reduced "
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
KEEPS_RESULT = {"context", "layer_norm_eps", "hidden_layer", "pool", "cls_token", "sep_token"}
"""Fields of config.json that a user may change, and that then change the result."""


@dataclass(frozen=True)
class Case:
    """One damaged input and what is done with it; the seed decides all else."""

    kind: str
    target: str
    how: str
    """``bytes``, ``lie``, ``place``, or ``reduced NAME`` (`hostile.reduced`)."""
    seed: int


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    outcome: str
    told: str
    """What was damaged."""
    detail: str = ""
    """The refusal; or what was raised, and where in cellscribe."""

    @property
    def fault(self) -> bool:
        """Whether cellscribe is at fault."""
        return self.outcome not in RIGHT


def spoil(case: Case, path: Path, clean: Path) -> str:
    """Damage an input in place; says how."""
    rng = random.Random(f"{case.kind} {case.target} {case.how} {case.seed}")
    outside = farm.decoy(clean)
    if case.how.startswith(REDUCED):
        name = case.how.removeprefix(REDUCED)
        reduced.REDUCED[name].spoil(path)
        return name
    if case.how == "place":
        inside = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
        return lies.place(rng.choice(inside), rng, outside)
    if case.how == "lie":
        if path.is_file() and farm.KINDS[case.kind].family == "hdf5":
            return lies_hdf5.tell(path, rng.choice(sorted(lies_hdf5.LIES)), rng, outside)
        able = [each for each in damage.files_of(path) if lies.can_lie(each)]
        if able:
            return lies.tell(rng.choice(able), rng)
    others = [each for kind in ("h5ad", "checkpoint") for each in
              damage.files_of(farm.source_of(clean, kind))]  # fmt: skip
    return damage.damage(path, rng.choice(sorted(damage.MUTATORS)), rng, others)


def run(case: Case, clean: Path, folder: Path) -> Verdict:
    """Run a case in an empty folder of its own."""
    original = farm.source_of(clean, case.kind)
    source, out = folder / original.name, folder / "out"
    out.mkdir()
    copy(original, source)
    told = spoil(case, source, clean)
    before = snapshot(folder)
    place = Place(source, out, clean, case.kind)
    verdict = _attempt(case, place, told, clean)
    if verdict.fault:
        return verdict
    return _left(case, place, verdict, before)


def _attempt(case: Case, place: Place, told: str, clean: Path) -> Verdict:
    terminal = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(terminal):
            warnings.simplefilter("ignore")
            found = TARGETS[case.target].call(place)
    except InputError as error:
        text = str(error)
        if len(text) > LONGEST or CONTROL.search(text) or not text:
            return Verdict("message", told, f"{len(text)} characters: {text[:300]!r}")
        return Verdict("refused", told, text)
    except MemoryError as error:
        return Verdict("memory", told, where(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Verdict("traceback", told, where(error))
    if shown := CONTROL.search(terminal.getvalue().replace("\n", "")):
        return Verdict(
            "message", told, f"logged {shown.string[max(0, shown.start() - 200) :][:300]!r}"
        )
    return compare(case, place, found, clean_result(case, clean), told)


def compare(case: Case, place: Place, found: Found, clean: Found, told: str) -> Verdict:
    """Judge a result."""
    vectors = found.get("vectors")
    if vectors is not None and not np.isfinite(vectors).all():
        return Verdict("nan", told, f"{int((~np.isfinite(vectors)).sum())} values")
    if found.keys() == clean.keys() and all(
        found[key].shape == clean[key].shape and np.array_equal(found[key], clean[key])
        for key in clean
    ):
        return Verdict("ok", told)
    rule = TARGETS[case.target].differs
    if rule == "oracle":
        return _by_oracle(case, place, found, told)
    if rule == "config" and not _may_differ(case, place, clean_of(case, place)):
        return Verdict("wrong", told, "another result than the clean model's")
    if rule == "fault":
        return Verdict("wrong", told, "another result than the clean input's")
    return Verdict("free", told)


def clean_of(case: Case, place: Place) -> Path:
    """The clean input of a case."""
    return farm.source_of(place.farm, case.kind)


def _may_differ(case: Case, place: Place, clean: Path) -> bool:
    """Whether nothing but config.json differs, in fields that may be changed by hand."""
    before, after = snapshot(clean), snapshot(place.source)
    if {name for name in before | after if before.get(name) != after.get(name)} != {"config.json"}:
        return False
    old, new = (_flat(json.loads((at / "config.json").read_text())) for at in (clean, place.source))
    changed = {name for name in old | new if old.get(name) != new.get(name)}
    # fields of other families are many, and each says how its network computes
    return case.kind.startswith("imported_") or changed <= KEEPS_RESULT


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves of JSON by the last name above them."""
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in _flat(value, key).items()}
    return {name: tree}


def _by_oracle(case: Case, place: Place, found: Found, told: str) -> Verdict:
    cells = oracle.read(place.source, case.kind)
    if cells is None:
        return Verdict("unjudged", told)
    if "X" in found:
        same = oracle.same_counts(cells, found["X"])
        return Verdict("changed" if same else "wrong", told, "" if same else "other counts")
    again = Place(place.source, place.out / "again", place.farm, place.kind)
    again.out.mkdir()
    target = "tokenize" if case.target == "tokenize" else "embed"
    try:
        other = TARGETS[target].call(Place(cells, again.out, place.farm, place.kind))  # type: ignore[arg-type]
    except InputError as error:
        return Verdict("wrong", told, f"read by another reader: {error}")
    finally:
        shutil.rmtree(again.out)
    same = all(np.array_equal(other[key], found[key]) for key in found)
    return Verdict("changed" if same else "wrong", told, "" if same else "another result")


def _left(case: Case, place: Place, verdict: Verdict, before: dict[str, str]) -> Verdict:
    """Look for what a run left over or changed."""
    after = snapshot(place.out.parent)
    may = tuple(f"{place.source.name}/{name}" for name in TARGETS[case.target].changes)
    if case.target == "build":  # what a build has done is kept for the next one
        may = ("out/corpus",)
    if case.target == "train":  # a run that met a damaged page has stopped; --resume goes on
        may = ("out/run",)
    changed = [name for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before]
    changed, new = (
        [n for n in names if not n.startswith(may or ("\0",))] for names in (changed, new)
    )
    if changed or not farm.decoy(place.farm).read_bytes().startswith(b"a decoy"):
        return Verdict("harm", verdict.told, f"changed: {', '.join(changed[:4])}")
    hidden = [name for name in new if "partial" in name]
    if verdict.outcome == "refused" and (new or hidden):
        what = f"{', '.join((new or hidden)[:4])} after: {verdict.detail[:200]}"
        return Verdict("partial", verdict.told, what)
    if hidden:
        return Verdict("partial", verdict.told, f"left over: {', '.join(hidden[:4])}")
    return verdict


def where(error: BaseException) -> str:
    """The deepest place in cellscribe, and what was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/src/cellscribe/" in f.filename]
    at = ours[-1] if ours else frames[-1]
    name = at.filename.rpartition("/cellscribe/")[2]
    text = CONTROL.sub("?", str(error))[:160]
    return f"{name}:{at.name}:{at.lineno}: {type(error).__name__}: {text}"


def clean_result(case: Case, clean: Path) -> Found:
    """The result of the clean input, kept on disk once it is known."""
    kept = clean / "clean" / f"{case.kind}--{case.target}.pickle"
    if not kept.exists():
        folder = clean / "clean" / f"{case.kind}--{case.target}-{os.getpid()}"
        (folder / "out").mkdir(parents=True)
        original = farm.source_of(clean, case.kind)
        copy(original, folder / original.name)
        place = Place(folder / original.name, folder / "out", clean, case.kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = TARGETS[case.target].call(place)
        kept.with_suffix(f".{os.getpid()}").write_bytes(pickle.dumps(found))
        kept.with_suffix(f".{os.getpid()}").replace(kept)
        shutil.rmtree(folder)
    return pickle.loads(kept.read_bytes())


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def snapshot(folder: Path) -> dict[str, str]:
    """Every name below a folder, and what is there; nothing is followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def to_line(value: Any) -> bytes:
    """A case or a verdict as a line for a pipe."""
    return json.dumps(asdict(value)).encode() + b"\n"
