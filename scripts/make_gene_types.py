"""Make the gene list of the bundled model's evaluation (``benchmarks/evaluation/gene_types.csv``).

So many protein-coding genes and lncRNAs, drawn from the bundled model's gene table by their types
in Ensembl (GENCODE, as ``bundled/symbols.tsv.gz`` has them): labels that are published, of genes
that any file of blood cells shows.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cellscribe.cells.gene_names.genes import human_genes
from cellscribe.families.registry import read_model

TARGET = Path(__file__).resolve().parents[1] / "benchmarks/evaluation/gene_types.csv"
TYPES = ("protein_coding", "lncRNA")
OF_EACH = 1_500


def main() -> None:
    known, genes = set(read_model("mini").table.ids), human_genes()
    genes = genes[genes["ensembl_id"].isin(known)]
    random = np.random.default_rng(0)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["gene", "label"])
        for kind in TYPES:
            ids = genes["ensembl_id"][genes["biotype"] == kind].to_numpy()
            rows.writerows([gene, kind] for gene in sorted(random.permutation(ids)[:OF_EACH]))
    print(TARGET)


if __name__ == "__main__":
    main()
