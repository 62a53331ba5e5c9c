"""Head of a fine-tuned model: scores of labels from the vector of a cell.

A head is linear. Its input is the vector that `embed` returns: the mean of the last hidden layer
over the genes of a cell. It is stored in the checkpoint directory as ``head.safetensors`` and
``head.json``, which also holds the threshold of its probability; every other command, and
`transformers`, can still read the encoder.

Letters: ``B`` cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from cellscribe.config.checked import Between, Share, check_value
from cellscribe.config.files import check_file, read_json
from cellscribe.errors import InputError
from cellscribe.model.checksums import check_sum

FORMAT = "cellscribe head"
WEIGHTS, HEADER = "head.safetensors", "head.json"
UNKNOWN = "unknown"
"""Label of a cell that resembles none of the labels, or several of them too closely."""

AGAIN = "fine-tune or copy the model again"

Floats = npt.NDArray[np.floating]


class _Source(TypedDict):
    name: str


class HeadKeys(TypedDict):
    """What is read again of ``head.json``."""

    format: Literal["cellscribe head"]
    version: Literal[1]
    labels: list[str]
    temperature: Annotated[float, Between(above=0.0)]
    threshold: Share
    of: NotRequired[Literal["cells", "genes"]]
    label: NotRequired[str]
    sources: NotRequired[list[_Source]]


class HeadsKeys(TypedDict):
    """What is read again of the ``head.json`` of a model of several heads, or of a number's."""

    format: Literal["cellscribe head"]
    version: Literal[2]
    heads: list[dict[str, Any]]
    sources: NotRequired[list[_Source]]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear classifier of vectors, with the threshold of its probability."""

    of: Literal["cells", "genes"] = "cells"
    """Whose vectors it reads."""
    labels: list[str]
    weight: npt.NDArray[np.float32]
    """``[C, D]``."""
    bias: npt.NDArray[np.float32]
    """``[C]``."""
    temperature: float
    """Scores are divided by it before the softmax."""
    threshold: float
    """Probability below which a cell is `UNKNOWN`."""
    about: dict[str, Any]
    """Its origin, and its scores on held-out cells."""
    tensors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """What else is kept with it: what new cells are compared with (`annotation.domain`)."""

    def logits(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """Scores, ``[B, D]`` to ``[B, C]``."""
        return np.asarray(vectors, np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """Calibrated probabilities, ``[B, D]`` to ``[B, C]``."""
        return probabilities(self.logits(vectors), self.temperature)


def probabilities(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Softmax of ``logits / temperature``, ``[B, C]``; a score of -inf is a probability of 0."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def best_of(each: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Most probable class of each cell, the first of equals, and its probability."""
    best = each.argmax(axis=1)
    return best, each[np.arange(len(best)), best].astype(np.float64)


def has_head(directory: Path) -> bool:
    """Whether a model directory is a fine-tuned one."""
    return (Path(directory) / HEADER).is_file()


def save_head(directory: Path, head: Head) -> None:
    """Write a head into a checkpoint directory."""
    header = {
        "format": FORMAT,
        "version": 1,
        **({"of": head.of} if head.of != "cells" else {}),
        "labels": head.labels,
        "temperature": head.temperature,
        "threshold": head.threshold,
        **head.about,
    }
    tensors = {"weight": head.weight, "bias": head.bias, **head.tensors}
    write_head(directory, header, tensors)


def write_head(
    directory: Path, header: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    """Write ``head.json`` and ``head.safetensors``."""
    from safetensors.numpy import save_file

    path = Path(directory) / WEIGHTS
    save_file(dict(tensors), path)
    # safetensors makes it readable by its owner alone.
    path.chmod(0o644)
    text = json.dumps(header, indent=1, ensure_ascii=False) + "\n"
    (Path(directory) / HEADER).write_text(text, encoding="utf-8")


def read_head_header(directory: Path) -> dict[str, Any]:
    """Read ``head.json`` of a fine-tuned model, of one head or (`several_heads`) of several.

    Raises
    ------
    InputError
        The file is damaged, or of another version.
    """
    path = Path(directory) / HEADER
    about = read_json(path, fix=AGAIN)
    several = isinstance(about, dict) and about.get("version") == 2
    try:
        check_value(HeadsKeys if several else HeadKeys, about, "")
    except InputError as error:
        raise InputError(f"{path}: not a head that this version reads: {error}; {AGAIN}") from None
    if not several:
        check_labels(about["labels"], path)
    check_sum(path)
    return about


def check_labels(labels: list[str], path: Path) -> None:
    """Refuse labels of a head that are empty, or stand twice."""
    if len(set(labels)) < len(labels) or not all(labels):
        raise InputError(f"{path}: labels are empty, or one stands twice; {AGAIN}")


def load_head(directory: Path, of: Literal["cells", "genes"] | None = "cells") -> Head:
    """Read the head of a fine-tuned model.

    Parameters
    ----------
    directory
        Of the model.
    of
        Whose labels are wanted; any if None.

    Raises
    ------
    InputError
        The model has no head, its head labels something else, or is damaged.
    """
    directory = Path(directory)
    if not has_head(directory):
        raise InputError(
            f"{directory.name} is a model without a head; fine-tune it (cellscribe finetune) or "
            "give labelled cells with --reference"
        )
    about = read_head_header(directory)
    if about["version"] == 2:
        raise InputError(
            f"{directory.name} has heads of several columns, or of a number; use cellscribe "
            "annotate with it"
        )
    tensors = read_tensors(directory / WEIGHTS)
    weight, bias = pop_linear(tensors, "", directory / WEIGHTS)
    labels = about.pop("labels")
    if len(weight) != len(labels):
        raise InputError(f"{directory}: {HEADER} and {WEIGHTS} belong to different models")
    for name in ("format", "version"):
        about.pop(name)
    kind = about.pop("of", "cells")
    if of is not None and kind != of:
        verb = {"cells": "annotate", "genes": "genes"}[kind]
        raise InputError(f"{directory.name} labels {kind}, not {of}; use cellscribe {verb} with it")
    return Head(
        of=kind,
        labels=labels,
        weight=weight,
        bias=bias,
        temperature=float(about.pop("temperature")),
        threshold=float(about.pop("threshold")),
        about=about,
        tensors=tensors,
    )


def load_gene_head(directory: Path) -> Head | None:
    """Read the head of a model that labels genes; None if it does not.

    Raises
    ------
    InputError
        The head is damaged.
    """
    if not has_head(directory) or read_head_header(Path(directory)).get("of") != "genes":
        return None
    return load_head(directory, "genes")


def read_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read weights, biases, and what else is kept with them; all finite float32."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_file(path, fix=AGAIN, most=1 << 30)
    try:
        tensors: dict[str, npt.NDArray[np.float32]] = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{path}: damaged ({error}); {AGAIN}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise InputError(
                f"{path}: {name} is of type {tensor.dtype}, or holds what is not a finite number; "
                f"{AGAIN}"
            )
    check_sum(path)
    return tensors


def pop_linear(
    tensors: dict[str, npt.NDArray[np.float32]], prefix: str, path: Path
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Take weight ``[C, D]`` and bias ``[C]`` out of the tensors of a file."""
    weight, bias = (tensors.pop(f"{prefix}{name}", None) for name in ("weight", "bias"))
    if weight is None or bias is None:
        raise InputError(f"{path}: damaged ({prefix}weight or {prefix}bias is missing); {AGAIN}")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InputError(
            f"{path}: weight {list(weight.shape)} and bias {list(bias.shape)} do not fit; {AGAIN}"
        )
    return weight, bias
