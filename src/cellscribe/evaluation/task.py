"""The interface of a task of `cellscribe evaluate`.

A task is a module of `evaluation.tasks` with the names of `Task`. It makes cases of data, lists the
methods of each case (models and baselines), and scores what they predict: one `Scores` for each
method and seed. Each task decides what a prediction is (vectors, probabilities, expression). The
suite runs models and baselines in one loop, on the same case, folds and seeds, and the renderer
refuses a table without one of the required baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.data import CellProvenance, Data
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Metric, Scores


class Case(Protocol):
    """One table of a task: the data as the task reads them, and the models that can take part."""

    @property
    def name(self) -> str:
        """Name of the table: the file's stem, with a suffix where one file makes several cases."""
        ...

    @property
    def models(self) -> Sequence[Model]:
        """Models that are evaluated on the case."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """Sizes for the reader of the table: cells, classes, folds. JSON."""
        ...

    @property
    def provenance(self) -> CellProvenance:
        """Datasets and hashes of the cells, to find a model that was trained on them."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the figures except the method: hashes of data, settings. JSON."""
        ...


class Task(Protocol):
    """Names that the module of a task has; see `suite.TASKS`."""

    NAME: str
    TITLE: str
    ABOUT: str
    """What is measured and how, a paragraph, with sources."""
    METRICS: dict[str, Metric]
    """In the order of the table's columns."""
    HEADLINES: tuple[str, ...]
    """The metrics that summaries compare and average methods by; the first matters most."""
    BASELINES: tuple[str, ...]
    """Methods that every table must have."""
    PCA_BASELINE: str | None
    """The one of `BASELINES` that has PCA-50 of the same cells in place of a model's vectors; None
    where that answers nothing."""
    EXTRA_BASELINES: dict[str, str]
    """Further baselines, with the optional package that each needs."""

    def load(self, data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Any]:
        """Make cases of data.

        Raises
        ------
        UnfitError
            The data lack what the task needs.
        InputError
            They are bad.
        """
        ...

    def methods(self, case: Any, model: Model) -> list[Method]:
        """Return the rows of a model, most often one.

        Raises
        ------
        UnfitError
            The model lacks what the task needs.
        """
        ...

    def baselines(self, case: Any) -> list[Method]:
        """Return all of `BASELINES`, and each of `EXTRA_BASELINES` whose package is installed."""
        ...

    def score(self, case: Any, prediction: Any, seed: int) -> Scores:
        """Score what a method predicted; the same seed means the same folds for every method."""
        ...
