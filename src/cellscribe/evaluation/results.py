"""Results as JSON, one file for each task, case, method and seed.

A file has all that is needed to repeat the measurement and to recognise it: a later run of the same
task on the same cells, with the same model and settings, reads it instead of measuring again.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from cellscribe.config.checked import check_value
from cellscribe.config.files import read_json
from cellscribe.errors import InputError
from cellscribe.evaluation.scores import Curve, Estimate, Kind, Scores
from cellscribe.writing import write_json

FORMAT, VERSION = "cellscribe evaluation", 1
FOLDER = "results"
"""Folder of the JSON files, in the folder of an evaluation."""


AGAIN = "remove it and measure again"


class StoredEstimate(TypedDict):
    """An `Estimate`; null stands for NaN, here and below."""

    value: float | None
    low: float | None
    high: float | None
    draws: NotRequired[str]


class StoredCurve(TypedDict):
    """A `Curve`."""

    x: list[float]
    y: list[float | None]
    x_label: str
    y_label: str
    log_x: NotRequired[bool]


class StoredScores(TypedDict):
    """`Scores`."""

    estimates: dict[str, StoredEstimate]
    breakdowns: dict[str, dict[str, float | None]]
    curves: dict[str, StoredCurve]


class Stored(TypedDict):
    """A file of a result."""

    format: Literal["cellscribe evaluation"]
    version: Literal[1]
    task: str
    data: str
    method: str
    kind: Kind
    seed: int
    scores: StoredScores
    about: NotRequired[dict[str, Any]]
    identity: NotRequired[dict[str, Any]]
    model: NotRequired[dict[str, Any] | None]
    seen: NotRequired[str]
    seconds: NotRequired[float | None]
    made: NotRequired[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of one method on one case under one seed, with all that they depend on."""

    task: str
    data: str
    """Name of the case."""
    method: str
    kind: Kind
    seed: int
    scores: Scores
    about: dict[str, Any] = field(default_factory=dict)
    """Sizes of the case."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Hashes and settings that decide the figures; with equal ones nothing is measured again."""
    model: dict[str, Any] | None = None
    """Facts of the model, see `Model.facts`."""
    seen: str = ""
    """Why the model may have been trained on the data; "" without a reason."""
    seconds: float = 0.0
    made: dict[str, Any] = field(default_factory=dict)
    """Date, versions, processor."""

    @property
    def file(self) -> str:
        """Name of the JSON file."""
        return f"{slug(self.task)}--{slug(self.data)}--{slug(self.method)}--{self.seed}.json"


def slug(text: str) -> str:
    """Make a part of a file's name of a text."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-").lower()


def made_here() -> dict[str, Any]:
    """Return date, versions and processor for `Result.made`."""
    from importlib import metadata

    from cellscribe.model.device import cpu_facts

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cellscribe": metadata.version("cellscribe"),
        "scikit-learn": metadata.version("scikit-learn"),
        "python": platform.python_version(),
        "cpu": cpu_facts()["model"],
    }


def write(folder: Path, result: Result) -> Path:
    """Write one result into a folder that exists, in place of an older one with its name."""
    path = folder / result.file
    write_json(path, {"format": FORMAT, "version": VERSION, **as_plain(result)})
    return path


def as_plain(result: Result) -> dict[str, Any]:
    """A result in values of JSON, as its file holds it."""
    told = dataclasses.asdict(result)
    for each in told["scores"]["estimates"].values():
        # one line, not one of its own for each of hundreds of values
        if draws := " ".join(f"{draw:.5g}" for draw in each.pop("draws")):
            each["draws"] = draws
    return plain(told)


def read(path: Path) -> Result:
    """Read one result.

    Raises
    ------
    InputError
        The file is not a result.
    """
    try:
        stored = read_json(path, fix=AGAIN)
        check_value(Stored, stored, "")
    except InputError as error:
        raise InputError(
            f"{path}: not a result of this cellscribe evaluate: {error}; {AGAIN}"
        ) from None
    try:
        for key in ("format", "version"):
            stored.pop(key)
        scores = stored.pop("scores")
        if any(len(each["x"]) != len(each["y"]) for each in scores["curves"].values()):
            raise ValueError("axes of a curve differ in length")
        return Result(
            scores=Scores(
                estimates={name: _estimate(**each) for name, each in scores["estimates"].items()},
                breakdowns={
                    title: {name: _number(value) for name, value in row.items()}
                    for title, row in scores["breakdowns"].items()
                },
                curves={
                    title: Curve(**{**each, "y": [_number(value) for value in each["y"]]})
                    for title, each in scores["curves"].items()
                },
            ),
            **stored,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path}: not a result of this cellscribe evaluate; {AGAIN}") from None


def read_all(folder: Path) -> list[Result]:
    """Read all results of a folder, sorted by file name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def by_table(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """Group results by task and case, in the order of their files."""
    tables: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        tables.setdefault((result.task, result.data), []).append(result)
    return tables


def plain(value: Any) -> Any:
    """Convert a value to what JSON gives back; null stands for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _estimate(*, draws: str = "", **figures: float | None) -> Estimate:
    numbers = {name: _number(value) for name, value in figures.items()}
    return Estimate(**numbers, draws=tuple(map(float, draws.split())))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
