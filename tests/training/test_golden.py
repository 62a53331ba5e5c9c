"""A recorded trace: what changes it changes what is trained, and needs a reason.

``tests/golden/train_trace.json`` was written by this file, run as a script:
``PYTHONPATH=tests python tests/training/test_golden.py``.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.training import SHAPE, SHORT, lines_of, planted_corpus, run_training

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = Path(__file__).parents[1] / "golden/train_trace.json"
OPTIONS = replace(SHORT, schedule_steps=20, validate_every=10)
NAMES = ("loss", "gradient_norm", "loss_val", "loss_test_unseen")


def trace(folder: Path) -> dict[str, list[float]]:
    run_training(planted_corpus(folder / "corpus"), folder / "run", shape=SHAPE, options=OPTIONS)
    lines = lines_of(folder / "run")
    return {name: [line[name] for line in lines if name in line] for name in NAMES}


def test_twenty_steps_are_those_on_record(tmp_path: Path) -> None:
    recorded = json.loads(GOLDEN.read_text())
    ours = trace(tmp_path)
    assert len(ours["loss"]) == 20
    for name in NAMES:
        np.testing.assert_allclose(ours[name], recorded[name], rtol=1e-6, err_msg=name)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(trace(Path(scratch)), indent=1) + "\n")
