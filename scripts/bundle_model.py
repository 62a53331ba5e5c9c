"""Put the model of a finished run into the package, stored as float16.

    cellscribe train --preset mini --corpus runs/corpus -o runs/mini
    python scripts/bundle_model.py runs/mini
    cellscribe bench quality --data ../shared/data --also runs/mini/start
    python scripts/bundle_model.py runs/mini --card  # the card again, as measured

The run's loss curve goes to ``benchmarks/mini``. ``RUN/start`` gets the network as training began,
so that ``cellscribe bench quality`` can say what training adds.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from cellscribe.bench.record import read_results
from cellscribe.config import ModelConfig, from_mapping
from cellscribe.corpus.store import open_corpus
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.model_card import write_card
from cellscribe.training.runs import read_header
from cellscribe.training.start import ranked_sample, start_from_cells
from cellscribe.writing import remove

ROOT = Path(__file__).resolve().parents[1]


def save_start(run: Path, corpus: Path) -> None:
    """Make the network as the run began."""
    header, store = read_header(run), open_corpus(corpus)
    if store.hash != header["corpus"]["hash"]:
        raise SystemExit(f"{corpus} is not the corpus of {run}")
    config = from_mapping(ModelConfig, header["model"], str(run))
    model, seed = MaskedGeneModel(config), header["training"]["seed"]
    initialise(model, seed)
    if header["training"]["start_from_cells"]:
        start_from_cells(model, ranked_sample(store, config, seed), seed)
    remove(run / "start")
    save_checkpoint(run / "start", model, store.vocabulary, {"weights": "as training began"})


def measured(name: str) -> list[tuple[str, str]]:
    """Rows of the model card: the linear probe of ``benchmarks/results``."""
    rows = []
    for result in read_results(ROOT / "benchmarks/results", "quality"):
        if result["settings"]["model"] != name:
            continue
        columns = result["table"]["columns"]
        for row in result["table"]["rows"]:
            told = [f"{c} {v}" for c, v in zip(columns[3:], row[3:], strict=True)]
            rows.append((f"{columns[0]}, {row[0]}", ", ".join(told)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs/corpus")
    parser.add_argument("--card", action="store_true", help="only write the model card again")
    options = parser.parse_args()
    name = read_header(options.run)["preset"]
    target = ROOT / "src/cellscribe/bundled" / name
    if options.card:
        print(write_card(options.run, options.corpus, target, benchmarks=measured(name)))
        return
    trained = load_checkpoint(options.run / "model")
    save_start(options.run, options.corpus)
    remove(target)
    save_checkpoint(
        target,
        trained.model,
        trained.vocabulary,
        {**trained.provenance, "stored as": "float16"},
        dtype=torch.float16,
    )
    write_card(options.run, options.corpus, target)
    curve = ROOT / "benchmarks" / name
    curve.mkdir(parents=True, exist_ok=True)
    for file in ("metrics.jsonl", "run.json"):
        shutil.copy(options.run / file, curve / file)
    print(target)


if __name__ == "__main__":
    main()
