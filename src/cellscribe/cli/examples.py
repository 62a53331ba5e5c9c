"""Examples below the help of every verb."""

from __future__ import annotations

from collections.abc import Mapping

from cyclopts import App

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "embed": (
        "embed cells.h5ad -o vectors.npy",
        "embed cells.h5ad -o embedded.h5ad --layer counts",
        "embed raw_matrix.h5 -o vectors.parquet --report report.html",
        "embed 'atlas/*.h5ad' -o vectors --workers 4",
    ),
    "collect": ("collect vectors -o all.zarr", "collect vectors -o all.parquet"),
    "tokenize": ("tokenize cells.h5ad -o tokens.parquet",),
    "genes": (
        "genes cells.h5ad -o genes.parquet",
        "genes cells.h5ad -o genes.csv --model tuned",
    ),
    "enhance": ("enhance cells.h5ad --model scfoundation -o deeper.h5ad",),
    "annotate": (
        "annotate cells.h5ad -o labels.csv",
        "annotate cells.h5ad -o types.csv --reference a.h5ad --label type",
        "annotate cells.h5ad -o labelled.h5ad --model tuned",
    ),
    "finetune": (
        "finetune mini ref.h5ad -o tuned --label type --group donor",
        "finetune mini ref.h5ad -o tuned --label type --mode last",
    ),
    "evaluate": (
        "evaluate mini --data ref.h5ad -o judged",
        "evaluate mini scgpt --task annotation --data ref.h5ad -o judged",
    ),
    "explore": (
        "explore vectors.h5ad -o map.html",
        "explore vectors.h5ad -o map.html --color cell_type --gene CD3E",
        "explore vectors.h5ad -o map.html --basis X_umap --max-cells 50000",
    ),
    "perturb": ("perturb cells.h5ad --genes GATA1 TP53 -o shifts.csv",),
    "import": (
        "import scGPT_human -o scgpt",
        "import Geneformer/gf-6L-30M-i2048 -o geneformer",
    ),
    "export": ("export mini -o mini-hf",),
    "info": ("info mini", "info runs/mini/model --json"),
    "train": (
        "train --preset mini --corpus corpus -o runs/mini",
        "train --preset mini --corpus corpus -o runs/mini --resume",
    ),
    "report": ("report runs/mini", "report runs/a runs/b -o compared"),
    "index build": ("index build ref.h5ad -o blood.index --label type",),
    "index add": ("index add blood.index more.h5ad",),
    "index query": ("index query blood.index cells.h5ad -o nearest.parquet",),
    "index info": ("index info blood.index --verify",),
    "corpus build": ("corpus build 'files/*.h5ad' -o corpus",),
    "corpus card": ("corpus card corpus",),
    "corpus census": ("corpus census -o census",),
    "completion": (
        "completion bash >> ~/.bash_completion",
        'completion zsh > "${fpath[1]}/_cellscribe"',
        "completion fish > ~/.config/fish/completions/cellscribe.fish",
    ),
    "help": ("help embed", "help index build"),
}
"""Verb -> command lines without the program's name."""


def show_examples(app: App) -> None:
    """Put the examples below the help of the verbs that have some."""
    for verb, lines in EXAMPLES.items():
        command = app
        for word in verb.split():
            command = command[word]
        shown = "\n".join(f"    cellscribe {line}" for line in lines)
        command.help_epilogue = f"Examples:\n\n{shown}"
