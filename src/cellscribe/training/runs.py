"""Read the folder of a training run: header, metrics, and numbers computed from them.

``run.json`` describes model, corpus and options; ``metrics.jsonl`` has a line per step. Both can be
read while the run is training: a last line that is not complete is ignored. Any other damage is an
error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import SPECIAL_TOKENS
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.config.checked import Between, Count, check_value, hints_of, shown
from cellscribe.config.files import read_bytes, read_json
from cellscribe.config.renamed import RENAMED
from cellscribe.errors import InputError
from cellscribe.model.metadata import MODEL, RUN

FORMAT, VERSION, HEADER, METRICS = "cellscribe run", 1, RUN, "metrics.jsonl"
HEADER_KEYS = ("preset", "model", "training", "corpus", "parameters", "sessions")
STEP_KEYS = ("loss", "gradient_norm", "learning_rate", "cells", "tokens", "seconds")
VALIDATED = "loss_"  # the split's name follows
OBJECTIVE = ("regression", "contrast")
"""Parts of the second objective, in the lines of runs that have it."""
JUDGE = "val"
"""The split whose loss decides which step is best."""
RISEN, LONG_AGO = 0.01, 0.2
"""A run is called overfitted if the loss on val rose by more than the first share above its lowest
value, and the best step is more than the second share of the run before the last validation."""

MOST_METRICS = 1 << 30
"""Bytes of ``metrics.jsonl``; a step takes 200."""
MOST_AMOUNT = 1 << 53
LARGEST_LOSS = 1e30

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class SplitSize(TypedDict):
    """Size of a split of the corpus."""

    cells: NotRequired[Count]
    tokens: NotRequired[Count]


class RunCorpus(TypedDict):
    """The corpus of a run."""

    name: str
    hash: str
    vocabulary: NotRequired[str | None]
    splits: dict[str, SplitSize]


class RunModel(TypedDict):
    """The model of a run; its other fields are those of `ModelConfig`."""

    vocab_size: Annotated[int, Between(len(SPECIAL_TOKENS) + 1, 1 << 16)]


class RunHeader(TypedDict):
    """What is read of ``run.json``."""

    preset: str
    model: RunModel
    training: dict[str, Any]
    corpus: RunCorpus
    parameters: Count
    sessions: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, finished or not.

    Attributes
    ----------
    name
        Name of the folder.
    header
        ``run.json``.
    step
        ``[n]`` 1 to ``n``.
    loss
        ``[n]`` training loss: natural logarithm, mean over a cell's chosen genes, then over cells;
        NaN where it was not finite.
    learning_rate, gradient_norm
        ``[n]``; the norm is NaN where it was not finite.
    tokens, cells
        ``[n]`` number in each step.
    seconds
        ``[n]`` training time since the run began; validating and saving are not counted.
    validation
        Split -> the steps that validated, and the losses there (NaN where not finite).
    objective
        ``[n]`` training loss of each part of the second objective, where the run has it.
    skipped
        Number of steps that changed nothing, because loss or gradient was not finite.
    finished
        Whether the run ended: all steps are taken, or patience ended it and left a ``model``.
    """

    name: str
    header: Mapping[str, Any]
    step: Steps
    loss: Values
    learning_rate: Values
    gradient_norm: Values
    tokens: Steps
    cells: Steps
    seconds: Values
    validation: Mapping[str, tuple[Steps, Values]]
    skipped: int
    finished: bool
    objective: Mapping[str, Values] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """Number of steps that the run is planned to take."""
        training = self.header["training"]
        return int(training.get("steps") or training["schedule_steps"])

    @property
    def train_cells(self) -> int:
        """Number of cells of the corpus's train split."""
        return int(self.header["corpus"]["splits"].get("train", {}).get("cells", 0))

    @property
    def genes(self) -> int:
        """Number of genes of the vocabulary."""
        return int(self.header["model"]["vocab_size"]) - len(SPECIAL_TOKENS)

    @property
    def guessing(self) -> float:
        """Loss of a model to which all genes are equally likely."""
        return math.log(self.genes)

    @property
    def window(self) -> int:
        """Width in steps, an odd number, of the mean that smooths the training loss."""
        return smoothing_window(len(self.step))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in a few numbers.

    Attributes
    ----------
    steps, cells, tokens
        Numbers so far; a cell counts each time it is seen.
    epochs
        Cells seen over cells of the train split; NaN where these are not known.
    hours
        Training time.
    tokens_per_second
        Rate of the median step; NaN where no step took any time.
    """

    steps: int
    cells: int
    tokens: int
    epochs: float
    hours: float
    tokens_per_second: float


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run.

    Raises
    ------
    InputError
        The folder is no run, or one of an unknown version; there is no step yet; a line other than
        the last is damaged, or steps are missing.
    """
    folder = Path(folder)
    header = read_header(folder)
    lines = _read_lines(folder / METRICS)
    columns = {name: [_number(line, name) for line in lines] for name in STEP_KEYS}
    losses = dict.fromkeys(name for line in lines for name in line if name.startswith(VALIDATED))
    validation = {}
    for name in losses:
        there = [line for line in lines if name in line]
        steps = np.array([line["step"] for line in there], np.int64)
        values = np.array([_number(line, name) for line in there])
        validation[name.removeprefix(VALIDATED)] = (steps, values)
    run = Run(
        name=folder.resolve().name,
        header=header,
        step=np.arange(1, len(lines) + 1),
        loss=np.array(columns["loss"]),
        learning_rate=np.array(columns["learning_rate"]),
        gradient_norm=np.array(columns["gradient_norm"]),
        tokens=np.array(columns["tokens"], np.int64),
        cells=np.array(columns["cells"], np.int64),
        seconds=np.array(columns["seconds"]),
        validation=validation,
        skipped=sum(bool(line.get("skipped")) or line["loss"] is None for line in lines),
        finished=(folder / MODEL).is_dir(),
        objective={
            name: np.array([_number({name: None, **line}, name) for line in lines])
            for name in OBJECTIVE
            if any(name in line for line in lines)
        },
    )
    _check_header(run, folder / HEADER)
    # a run that was given more steps has an earlier model: only with patience does it mean the end
    ended = run.finished and bool(header["training"].get("patience"))
    return replace(run, finished=ended or len(run.step) >= run.planned)


def _check_header(run: Run, path: Path) -> None:
    """Check the entries of a header that are used later."""
    try:
        _ = (run.guessing, run.planned)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error!r}); restore it") from None
    if run.planned < 1:
        raise InputError(f"{path} is damaged: {run.planned:,} steps are planned; restore it")


def read_header(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; errors as in `read_run`."""
    path = folder / HEADER
    if not path.is_file():
        problem = "no such folder" if not folder.exists() else f"no readable {HEADER} in it"
        raise InputError(
            f"{folder} is no training run: {problem}; name a folder that cellscribe train made"
        )
    header = read_json(path, fix="name a folder that cellscribe train made, or restore it")
    form, version = header.get("format"), header.get("version")
    if not isinstance(form, str) or type(version) is not int:
        raise InputError(f"{path} is not a run's header; name a folder that cellscribe train made")
    if (form, version) != (FORMAT, VERSION):
        raise InputError(
            f"{folder} is a {form[:60]} of version {version}; this cellscribe reads a {FORMAT} of "
            f"version {VERSION}: use the one that made it"
        )
    for key in HEADER_KEYS:
        if key not in header:
            raise InputError(f"{path} lacks {key!r}; restore it")
    try:
        check_value(RunHeader, header, "")
        former = RENAMED["TrainOptions"]  # a run of an earlier version has former names
        header["training"] = {former.get(k, k): v for k, v in header["training"].items()}
        for part, kind in (("model", ModelConfig), ("training", TrainOptions)):
            for key, hint in hints_of(kind).items():
                if key in header[part]:
                    check_value(hint, header[part][key], f"{part}.{key}")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}; restore it") from None
    if not header["sessions"]:
        raise InputError(f"{path} is damaged: sessions is empty; restore it")
    return header


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise InputError(f"{path} is missing: the run has no step yet; try again later")
    raw = read_bytes(path, fix="restore the file", most=MOST_METRICS)
    texts = raw.split(b"\n")
    lines: list[dict[str, Any]] = []
    for place, text in enumerate(texts):
        is_last = place == len(texts) - 1
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if is_last:
                break
            raise InputError(f"{path}: line {place + 1} is damaged; restore the file") from None
        missing = {"step", *STEP_KEYS} - set(line) if isinstance(line, dict) else {"a step"}
        if missing:
            raise InputError(f"{path}: line {place + 1} lacks {min(missing)}; restore the file")
        if line["step"] != place + 1:
            raise InputError(
                f"{path}: line {place + 1} is of step {line['step']}; restore the file"
            )
        lines.append(line)
    if not lines:
        raise InputError(f"{path} is empty: the run has no step yet; try again later")
    return lines


def _number(line: Mapping[str, Any], name: str) -> float:
    value = line[name]
    if value is None and name not in ("cells", "tokens", "seconds"):
        return math.nan
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN and infinity stand for a loss that is not finite; of amounts there is no such thing
    if name in ("cells", "tokens"):
        fits = type(value) is int and 0 <= value <= MOST_AMOUNT
    elif name == "seconds":
        fits = is_number and 0 <= value <= MOST_AMOUNT
    else:
        fits = is_number and not abs(value) > LARGEST_LOSS
    if not fits:
        raise InputError(
            f"{METRICS}: step {line['step']} has {name} {shown(value)}; restore the file"
        )
    return float(value)


def summarise(run: Run) -> Summary:
    """Compute the few numbers that show how far a run is, and how fast."""
    rates = tokens_per_second(run)
    rates = rates[np.isfinite(rates)]
    cells = int(run.cells.sum())
    return Summary(
        steps=len(run.step),
        cells=cells,
        tokens=int(run.tokens.sum()),
        epochs=cells / run.train_cells if run.train_cells else math.nan,
        hours=float(run.seconds[-1]) / 3600,
        tokens_per_second=float(np.median(rates)) if len(rates) else math.nan,
    )


def tokens_per_second(run: Run) -> Values:
    """Return the ``[n]`` rate of each step; NaN where the step took no time."""
    took = np.diff(run.seconds, prepend=0.0)
    return np.where(took > 0, run.tokens / np.where(took > 0, took, 1.0), np.nan)


def best(run: Run, split: str = JUDGE) -> tuple[int, float] | None:
    """Return step and loss of a split's lowest validation loss; None without validation."""
    steps, losses = run.validation.get(split, (np.array([], np.int64), np.array([])))
    if not np.isfinite(losses).any():
        return None
    place = int(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)))
    return int(steps[place]), float(losses[place])


def last(run: Run, split: str = JUDGE) -> tuple[int, float] | None:
    """Return step and loss of a split's last validation; None without validation."""
    if not len(run.validation.get(split, ((), ()))[0]):
        return None
    steps, losses = run.validation[split]
    return int(steps[-1]), float(losses[-1])


def loss_at(run: Run, step: int, split: str) -> float:
    """Return the loss of a split at a step, smoothed for ``train``; NaN if not validated."""
    if split == "train":
        return float(smooth(run.loss, run.window)[step - 1])
    steps, losses = run.validation[split]
    at = np.flatnonzero(steps == step)
    return float(losses[at[0]]) if len(at) else math.nan


def smoothing_window(n_steps: int) -> int:
    """Return an odd number of steps, about a hundredth of all."""
    return max(n_steps // 100, 1) // 2 * 2 + 1


def smooth(values: Values, window: int) -> Values:
    """Average the finite values of the `window` (odd) steps around each step."""
    half = window // 2
    finite = np.isfinite(values)
    # subtract the mean, so that the running sum keeps its digits
    middle = float(values[finite].mean()) if finite.any() else 0.0
    sums = np.append(0.0, np.cumsum(np.where(finite, values - middle, 0.0)))
    counts = np.append(0, np.cumsum(finite))
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    n = counts[high] - counts[low]
    return np.where(n > 0, middle + (sums[high] - sums[low]) / np.maximum(n, 1), np.nan)


def warnings(run: Run) -> list[str]:
    """List problems of a run, one sentence each."""
    found = []
    if run.skipped:
        found.append(
            f"{run.skipped:,} of {len(run.step):,} steps were skipped: loss or gradient was not "
            "finite."
        )
    if not run.finished:
        found.append(f"Not finished: {len(run.step):,} of {run.planned:,} steps.")
    lowest, latest = best(run), last(run)
    if lowest is None or latest is None:
        found.append(f"No loss on {JUDGE}: nothing says which step is best.")
        return found
    share = latest[1] / lowest[1] - 1
    if share > RISEN and latest[0] - lowest[0] > LONG_AGO * latest[0]:
        found.append(
            f"Overfitting: the loss on {JUDGE} was lowest at step {lowest[0]:,} "
            f"({lowest[1]:.3f}) and rose to {latest[1]:.3f} by step {latest[0]:,} (+{share:.1%})."
        )
    return found
