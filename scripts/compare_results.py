"""Run two checkouts on the sample, and compare what they compute, bit for bit.

    git worktree add ../before d6f3a09
    python scripts/compare_results.py ../before .

Vectors, tokens, vectors of genes, labels, perturbations, a corpus, 20 steps of training and an
evaluation, all by the command line, in float32 on one CPU thread. Prints a line each with the
hash, and ends with status 1 if one differs. For changes that are to move no number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

SAMPLE = Path("src/cellscribe/bundled/pbmc3k_sample.h5ad")
FLAT = ("--device", "cpu", "--precision", "float32", "--threads", "1")
PRESET = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 64
context = 128
max_position_embeddings = 160
[training]
schedule_steps = 20
warmup_steps = 2
global_batch = 16
micro_batch = 8
lanes = 1
validate_every = 10
validation_cells = 32
precision = "float32"
device = "cpu"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another checkout")
    parser.add_argument("--quick", action="store_true", help="vectors, tokens and training alone")
    options = parser.parse_args()
    folders = [folder.resolve() for folder in (options.before, options.after)]
    found = [results(folder, quick=options.quick) for folder in folders]
    differ = 0
    for name in found[0]:
        first, second = (each[name] for each in found)
        same = first == second
        differ += not same
        print(f"{name:<24} {first}  {'equal' if same else f'NOT EQUAL: {second}'}")
    return 1 if differ else 0


def results(checkout: Path, *, quick: bool) -> dict[str, str]:
    """Hashes of everything that a checkout computes, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cells = folder / "sample.h5ad"
        some_cells(checkout / SAMPLE).write_h5ad(cells)
        (folder / "tiny.toml").write_text(PRESET)

        def run(*words: str) -> None:
            path = os.pathsep.join([str(checkout / "src"), *sys.path[1:]])
            environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "cellscribe", *words]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{checkout}: {' '.join(words)} failed:\n{done.stderr[-2_000:]}")

        source = cells.name
        run("embed", source, "-o", "vectors.npy", *FLAT)
        run("embed", source, "-o", "half.npy", *FLAT, "--dtype", "float16", "--pool", "cls")
        run("tokenize", source, "-o", "tokens.parquet")
        run("corpus", "build", source, "-o", "corpus", "--context", "128", "--genes", "5000",
            "--holdout", "0")  # fmt: skip
        run("train", "--corpus", "corpus", "--preset", "tiny.toml", "-o", "run")
        read: dict[str, Callable[[], Any]] = {
            "vectors": (folder / "vectors.npy").read_bytes,
            "vectors, half, [CLS]": (folder / "half.npy").read_bytes,
            "tokens": lambda: column(folder / "tokens.parquet", "input_ids"),
            "tokens of the corpus": lambda: b"".join(
                column(path, "input_ids") for path in sorted(folder.glob("corpus/**/*.parquet"))
                if "tokens" in str(path)
            ),
            "20 steps of training": lambda: trace(folder / "run/metrics.jsonl"),
            "weights after them": (folder / "run/model/model.safetensors").read_bytes,
        }  # fmt: skip
        if not quick:
            run("genes", source, "-o", "genes.parquet", *FLAT)
            run("finetune", "mini", source, "--label", "cell_type", "-o", "tuned", *FLAT)
            run("annotate", source, "--model", "tuned", "-o", "labels.csv", *FLAT)
            nearest = ("--reference", source, "--label", "cell_type")
            run("annotate", source, *nearest, "-o", "nearest.csv", *FLAT)
            run("perturb", source, "--top", "3", "-o", "moves.csv", *FLAT)
            run("evaluate", "mini", "--data", source, "-o", "evaluation", "--seeds", "1",
                "--bootstrap", "20", "--task", "celltype", "mlm", "confounding", *FLAT)  # fmt: skip
            read |= {
                "vectors of genes": lambda: column(folder / "genes.parquet", "embedding"),
                "head": (folder / "tuned/head.safetensors").read_bytes,
                "labels by head": (folder / "labels.csv").read_bytes,
                "labels by neighbours": (folder / "nearest.csv").read_bytes,
                "perturbations": (folder / "moves.csv").read_bytes,
                "evaluation": lambda: scores(folder / "evaluation/results"),
            }
        return {name: digest(get()) for name, get in read.items()}


def some_cells(path: Path) -> AnnData:
    """Every fourth cell of the sample."""
    import anndata

    return anndata.read_h5ad(path)[::4].copy()


def column(path: Path, name: str) -> bytes:
    """Bytes of a column of lists."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if name not in table.column_names:
        raise SystemExit(f"{path} has no column {name}; it has {', '.join(table.column_names)}")
    return json.dumps(table[name].to_pylist()).encode()


def trace(path: Path) -> bytes:
    """Loss, gradient and validation of each step; times differ."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keep = [
        {name: value for name, value in line.items() if name.startswith(("loss", "gradient"))}
        for line in lines
    ]
    assert len(keep) == 20
    return json.dumps(keep).encode()


def scores(folder: Path) -> bytes:
    """Scores of each result, by file."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        stored = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = stored["scores"]
    assert found
    return json.dumps(found, sort_keys=True).encode()


def digest(content: bytes) -> str:
    assert content
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
