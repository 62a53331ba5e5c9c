"""What a task of `cellscribe evaluate` is, and what comes out of it.

A task is a module of this room with the names of `Task`. It makes problems of data, asks models and
baselines for their answers to each, and scores the answers: one `Scores` a method and seed. What an
answer is (vectors, probabilities, predicted expression) is the task's own affair; that its
baselines answer the very same problem, under the same folds and seeds, is not: the suite asks them
in the same loop, and the renderer refuses a table in which one is missing.

Letters: ``B`` cells, ``G`` genes, ``D`` width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cellscribe.errors import InputError

if TYPE_CHECKING:
    from cellscribe.config import EvaluateOptions
    from cellscribe.evaluation.data import Data
    from cellscribe.evaluation.leakage import Origin
    from cellscribe.evaluation.models import Model

Kind = Literal["model", "random", "baseline"]


class UnfitError(InputError):
    """Data or model lack what a task needs; suites pass over the task and say so."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a task's table."""

    title: str
    about: str
    """What it measures, in a sentence, with its source."""
    better: Literal["higher", "lower"] | None = None
    """None where a figure only describes."""
    digits: int = 3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a line in a figure; methods of one problem share the axes."""

    x: list[float]
    y: list[float]
    x_label: str
    y_label: str
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one answer came to, under one seed."""

    estimates: dict[str, Estimate]
    """By the task's metrics; one that has no meaning for an answer is left out."""
    breakdowns: dict[str, dict[str, float]] = field(default_factory=dict)
    """Further tables: this method's row of each, {"by corruption": {"mask": 6.9, "kept": 0.1}}."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By the title of the figure."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a model or a baseline, ready to answer one problem."""

    name: str
    kind: Kind
    answer: Callable[[], Any]
    """Makes what the task's `score` takes; called once for all seeds."""
    model: Model | None = None
    """Whose answer it is, if a model's."""


class Problem(Protocol):
    """One table: data as the task reads them, and the models that can be asked."""

    @property
    def name(self) -> str:
        """Of the data, as the table is called: the file's stem, with what sets it apart."""
        ...

    @property
    def models(self) -> Sequence[Model]:
        """Models that the problem can be put to."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """Sizes that a reader of the table wants: cells, classes, folds. JSON."""
        ...

    @property
    def origin(self) -> Origin:
        """Datasets and cells that a model must not have been trained on, see `leakage`."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the figures besides the method: hashes of data, settings. JSON."""
        ...


class Task(Protocol):
    """What a task's module has. Modules are taken for it, see `suite.TASKS`."""

    NAME: str
    TITLE: str
    ABOUT: str
    """What is measured and how, a paragraph, with sources."""
    METRICS: dict[str, Metric]
    """In the order of the table's columns."""
    HEADLINE: str
    """The metric that methods are ranked and averaged by."""
    BASELINES: tuple[str, ...]
    """Names of the methods without which no table is rendered."""
    EXTRA_BASELINES: dict[str, str]
    """Further baselines, and the package of the extra that each needs."""

    def load(self, data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Any]:
        """Make problems of data.

        Raises
        ------
        UnfitError
            The data lack what the task needs.
        InputError
            They are bad.
        """
        ...

    def answers(self, problem: Any, model: Model) -> list[Method]:
        """What a model answers; most often one row.

        Raises
        ------
        UnfitError
            The model cannot answer.
        """
        ...

    def baselines(self, problem: Any) -> list[Method]:
        """All of `BASELINES`, and those of `EXTRA_BASELINES` whose packages are here."""
        ...

    def score(self, problem: Any, answer: Any, seed: int) -> Scores:
        """Judge an answer; the same seed means the same folds for every method."""
        ...
