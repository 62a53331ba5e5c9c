"""Put the model of a finished run into the package, stored as float16.

    cellscribe train --preset mini --corpus runs/corpus -o runs/mini
    python scripts/bundle_model.py runs/mini
    make evaluate                                    # measures it, and fills README and the card
    python scripts/bundle_model.py runs/mini --card  # only writes the card again

The model keeps the hashes of its training cells, so that ``cellscribe evaluate`` marks figures of
cells that it knows. A run from before this file was added gets them from the corpus:

    python scripts/bundle_model.py runs/mini --cells

``SHA256SUMS`` is written last; ``--sums`` writes it alone, of the files as they are.

The run's loss curve goes to ``benchmarks/mini``. ``RUN/start`` gets the network as training began,
so that ``cellscribe evaluate`` can measure what training adds. The card's sections on accuracy and
speed stay empty until `benchmarks.render_tables` fills them from ``benchmarks/evaluation``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from cellscribe.config import ModelConfig, from_mapping
from cellscribe.corpus.components import COMPONENTS
from cellscribe.corpus.store import open_corpus
from cellscribe.families.registry import read_model
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.checksums import seal
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.report.model_card import write_card
from cellscribe.training.runs import read_header
from cellscribe.training.trained_cells import (
    MOST,
    TRAINED_CELLS,
    trained_cells,
    write_trained_cells,
)
from cellscribe.training.warm_start import ranked_sample, start_from_cells
from cellscribe.writing import remove

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "Downstream task accuracy": "card-accuracy",
    "Performance benchmarks": "card-performance",
}
"""Sections of the card: heading -> what `benchmarks.render_tables` puts there."""


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


def keep_cells(corpus: Path, target: Path) -> Path:
    """Write the hashes of a corpus's training cells into the model that was trained on it."""
    store, wanted = open_corpus(corpus), read_model(target).provenance["corpus"]
    if store.hash != wanted:
        raise SystemExit(f"{corpus} is the corpus {store.hash}, {target} was trained on {wanted}")
    hashes = trained_cells(store)
    if hashes is None:
        raise SystemExit(f"{corpus} has more than {MOST:,} training cells")
    path = write_trained_cells(target, hashes)
    seal(target)
    return path


def mark_sections(card: Path) -> None:
    """Put the sections that `render_tables` fills in the place of a card's own on benchmarks."""
    text = card.read_text(encoding="utf-8")
    marks = "".join(
        f"## {title}\n\n<!-- evaluate:{name} -->\n<!-- /evaluate:{name} -->\n\n"
        for title, name in SECTIONS.items()
    )
    before, limits, after = text.partition("## Limits\n")
    if not limits:
        raise SystemExit(f"{card} has no section on limits; sections are not put in")
    before, _, _ = before.partition("## Benchmarks\n")
    card.write_text(f"{before}{marks}{limits}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs/corpus")
    parser.add_argument("--card", action="store_true", help="only write the model card again")
    parser.add_argument(
        "--cells", action="store_true", help="only write the hashes of the training cells"
    )
    parser.add_argument(
        "--sums", action="store_true", help="only write the checksums of the bundled model again"
    )
    options = parser.parse_args()
    name = read_header(options.run)["preset"]
    target = ROOT / "src/cellscribe/bundled" / name
    if options.card:
        card = write_card(options.run, options.corpus, target)
        mark_sections(card)
        print(card)
        return
    if options.sums:
        print(seal(target))
        return
    if options.cells:
        print(keep_cells(options.corpus, target))
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
    components = options.run / "model" / COMPONENTS
    if components.exists():
        shutil.copy(components, target / COMPONENTS)
    cells = options.run / "model" / TRAINED_CELLS
    if cells.exists():
        shutil.copy(cells, target / TRAINED_CELLS)
    else:
        keep_cells(options.corpus, target)
    seal(target)
    mark_sections(write_card(options.run, options.corpus, target))
    curve = ROOT / "benchmarks" / name
    curve.mkdir(parents=True, exist_ok=True)
    for file in ("metrics.jsonl", "run.json"):
        shutil.copy(options.run / file, curve / file)
    print(target)


if __name__ == "__main__":
    main()
