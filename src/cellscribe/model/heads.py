"""Head of a fine-tuned model: scores of labels from the vector of a cell.

A head is linear. Its input is the vector that `embed` returns: the mean of the last hidden layer
over the genes of a cell. It is stored in the checkpoint directory as ``head.safetensors`` and
``head.json``, which also holds the threshold of its probability; every other command, and
`transformers`, can still read the encoder.

Letters: ``B`` cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

FORMAT = "cellscribe head"
WEIGHTS, HEADER = "head.safetensors", "head.json"
UNKNOWN = "unknown"
"""Label of a cell that resembles none of the labels, or several of them too closely."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear classifier of vectors, with the threshold of its probability."""

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
    from safetensors.numpy import save_file

    path = Path(directory) / WEIGHTS
    save_file({"weight": head.weight, "bias": head.bias}, path)
    # safetensors makes it readable by its owner alone.
    path.chmod(0o644)
    header = {
        "format": FORMAT,
        "version": 1,
        "labels": head.labels,
        "temperature": head.temperature,
        "threshold": head.threshold,
        **head.about,
    }
    text = json.dumps(header, indent=1, ensure_ascii=False) + "\n"
    (Path(directory) / HEADER).write_text(text, encoding="utf-8")


def load_head(directory: Path) -> Head:
    """Read the head of a fine-tuned model.

    Raises
    ------
    InputError
        The model has no head, or the head is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    directory = Path(directory)
    if not has_head(directory):
        raise InputError(
            f"{directory.name} is a model without a head; fine-tune it (cellscribe finetune) or "
            "give labelled cells with --reference"
        )
    try:
        about = json.loads((directory / HEADER).read_text(encoding="utf-8"))
        if about.pop("format") != FORMAT or about.pop("version") != 1:
            raise InputError(f"{directory / HEADER}: not a head that this version reads")
        tensors = load_file(directory / WEIGHTS)
        head = Head(
            labels=[str(label) for label in about.pop("labels")],
            weight=tensors["weight"],
            bias=tensors["bias"],
            temperature=float(about.pop("temperature")),
            threshold=float(about.pop("threshold")),
            about=about,
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(
            f"{directory}: its head is damaged ({error}); fine-tune or copy the model again"
        ) from None
    if head.weight.shape[:1] != (len(head.labels),) or head.bias.shape != (len(head.labels),):
        raise InputError(f"{directory}: {HEADER} and {WEIGHTS} belong to different models")
    return head
