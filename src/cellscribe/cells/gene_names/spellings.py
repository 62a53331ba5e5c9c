"""How files spell the name of a gene, and how such a name is read.

A name counts as it stands, if it is known as it stands: an approved symbol, an id, a symbol in
another letter case, or an older name. Only an unknown name is read further. The rules, in this
order; the first that leads to a known name decides:

1. another species' genome or id: no gene of this one (``mm10_Cd4``);
2. an id and a symbol in one: ``ENSG00000010610.9_CD4``, ``CD4|ENSG00000010610``; a symbol with its
   Entrez number or chromosome: ``A1BG|1``, ``A1BG__chr19``. Parts that name two genes name none;
3. the Y copy of a pseudoautosomal gene: ``CD99_PAR_Y``, ``CD99-PAR-Y``;
4. other separators, as R and Seurat write them: ``HLA.A``, ``MT.CO1``;
5. the number that keeps repeated names apart: ``TBCE-1``, ``TBCE.1``; not where the table has genes
   that are named so (IGHV3-30-3 is no repeat of IGHV3-30);
6. other separators in an older name;
7. a genome put in front: ``GRCh38_CD4``, ``hg19___CD4``, ``GRCh38.p13_CD4``, ``HUMAN_CD4``;
8. the X that R puts before a digit: ``X1700001O02Rik``.

A rule never sees a name that is known as it stands, so no rule turns one gene into another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """How an identifier was recognised."""

    NOTHING = 0
    ENSEMBL = 1
    SYMBOL = 2
    ALIAS = 3
    OTHER_SPECIES = 4


Found = tuple[Kind, tuple[str, ...]]
"""Kind of a name, and the ids of the genes that it may mean, the best first."""
UNKNOWN: Found = (Kind.NOTHING, ())
FOREIGN: Found = (Kind.OTHER_SPECIES, ())
LONGEST = 120
"""A longer name is no gene's."""

_PATCH = (
    r"(?:[._-](?:p\d+|pre[._-]?m?rna|20\d\d[._-][A-Z]|\d\.\d\.\d"
    r"|ensembl\d*|gencode\w?\d*))*"
)
_PREFIXES = {
    "human": r"(?:refdata-gex-)?(?:GRCh3[78]|hg19|hg38|hs1|T2T(?:[._-]?CHM13)?(?:v\d(?:\.\d)?)?)"
    rf"{_PATCH}|CHM13(?:v\d)?(?:\.\d)?|human|homo[._-]?sapiens|hsa|hs|gene",
    "mouse": rf"(?:refdata-gex-)?(?:mm\d+|GRCm\d+){_PATCH}|mouse|mus[._-]?musculus|mmu"
    r"|gene",
}
_RAT = r"(?:rn\d+|Rnor\d*|mRatBN\d*)(?:\.\d+)?|rat|rattus[._-]?norvegicus|rno"
ID_PREFIX = {"human": "ENSG", "mouse": "ENSMUSG"}
REPEAT = re.compile(r"(.+)[.-](\d{1,9})")
"""A name made unique: "TBCE-1" (anndata), "TBCE.1" (R); or with Entrez's number: "A1BG.503538"."""
_CLONE = re.compile(r"(?:RP|CT[A-D]|XX|KB|LL|GS|CH|CITF|ABC)\w*-\w+|[A-Z]{1,3}\d{5,}", re.I)
_Y_COPY = re.compile(r"(.+)[._-]PAR[._-]Y(?:[._-]\d+)?", re.IGNORECASE)
# an id inside a name: species, number, maybe its version and its Y copy
_ID_INSIDE = re.compile(
    r"(?<![A-Za-z0-9])(ENS[A-Z]{0,6}G)(R?\d{10,11})(?:\.\d+)?([._-]PAR[._-]Y)?(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_BETWEEN = re.compile(r"__+|[|:;,/\s]+")
_AT_ENDS = "_|:;,/. -"
# what may stand next to a symbol: an Entrez number, a chromosome, a word for what it is
_NO_NAME = re.compile(
    r"\d*|\?|chr(?:\d{1,2}|X|Y|M|MT|Un)(?:_\w+)?|(?:gene|symbol|hgnc|entrez|ensembl)(?:_?\w*)",
    re.IGNORECASE,
)
# counts of a part of a gene are no counts of the gene
_PART_OF_GENE = re.compile(
    r"(?:[AISU]|(?:un)?spliced|ambiguous|nascent|mature|pre-?mrna|introns?|intronic|exons?|exonic"
    r"|E\d{3}|utr)(?:[._-]?\d+)?",
    re.IGNORECASE,
)


def loose_key(name: str) -> str:
    """Write every run of separators as a dot, so that HLA-A and HLA.A have one key."""
    return _SEPARATORS.sub(".", name)


def loose_index(names: Iterable[str], *, fold: bool = True) -> dict[str, str]:
    """Key of each name -> the name; "" where two names have one key.

    Parameters
    ----------
    names
        Distinct names.
    fold
        Whether keys are in capitals.
    """
    index: dict[str, str] = {}
    for name in names:
        key = loose_key(name.upper() if fold else name)
        index[key] = "" if key in index else name
    return index


def numbered_names(names: Iterable[str]) -> frozenset[str]:
    """Names before a number at the end of other names, in capitals."""
    return frozenset(found[1].upper() for name in names if (found := REPEAT.fullmatch(name)))


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reading of names by the rules of this module, over the names of one table.

    Attributes
    ----------
    exact
        Genes of a name that is known as it stands, else None.
    loose
        Genes of the approved symbol that differs from the name by separators, else None.
    loose_older
        Likewise of an older name.
    numbered
        Names, in capitals, after which a number is part of a gene's name.
    is_current
        Whether an id is one of the present release: an outdated one leaves the word to a symbol
        next to it.
    species
        ``"human"`` or ``"mouse"``.
    nobody
        Names, in capitals, that are known to be several genes' or one's that the table lacks.
    """

    exact: Callable[[str], Found | None]
    loose: Callable[[str], Found | None]
    loose_older: Callable[[str], Found | None]
    numbered: frozenset[str]
    is_current: Callable[[str], bool]
    species: str = "human"
    nobody: frozenset[str] = frozenset()

    def read(self, name: str, *, whole: bool = False) -> Found:
        """Find what a name means; `whole` if it is a part of one, which has no parts itself."""
        if found := self.exact(name):
            return found
        if not name or len(name) > LONGEST:
            return UNKNOWN
        if not name.isalnum() and (found := self._dressed(name, whole)):
            return found
        if _foreign(self.species).match(name):
            return FOREIGN
        if name[0] in "Xx" and name[1:2].isdigit():
            rest = name[1:]
            return self.exact(rest) or self.loose(rest) or self.loose_older(rest) or UNKNOWN
        return UNKNOWN

    def _dressed(self, name: str, whole: bool) -> Found | None:
        """Genes of a name with separators, by rules 1 to 7."""
        if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'":
            return self.read(name[1:-1], whole=whole)
        if _foreign(self.species).match(name):
            return FOREIGN
        if not whole and (found := self._composite(name)):
            return found
        if copy := _Y_COPY.fullmatch(name):
            return self.read(copy[1], whole=whole)
        if found := self.loose(name):
            return found
        if name.upper() in self.nobody:
            return UNKNOWN
        if found := self._repeat(name) or self.loose_older(name):
            return found
        bare = strip_genome(name, self.species)
        return self.read(bare, whole=whole) if bare != name else None

    def _repeat(self, name: str) -> Found | None:
        """Genes of a repeated approved symbol, or of the first repeat of an older name."""
        bare = repeated(name, self.numbered)
        if bare is None:
            return None
        found, loose = self.exact(bare), self.loose(bare)
        if found and found[0] != Kind.SYMBOL:
            if loose and loose[1] == found[1]:
                return loose
            # MLL-3 may be meant for MLL3, and RP11-95H11.1 is a gene of that clone
            first = name[len(bare) + 1 :] == "1" and not _CLONE.fullmatch(bare)
            return found if first and found[0] == Kind.ALIAS else None
        return found or loose or self._repeat(bare)

    def _composite(self, name: str) -> Found | None:
        """Genes of a name that is made of an id or a symbol and something else."""
        if "ENS" in name.upper() and (ids := list(_ID_INSIDE.finditer(name))):
            return self._with_id(name, ids)
        if _BETWEEN.search(name) is None:
            return None
        parts = [part for part in _BETWEEN.split(name) if not _NO_NAME.fullmatch(part)]
        if not parts:
            return None
        found = [self.read(part, whole=True) for part in parts]
        if any(kind in (Kind.NOTHING, Kind.OTHER_SPECIES) for kind, _ in found):
            return None
        return found[0] if len({genes[:1] for _, genes in found}) == 1 else None

    def _with_id(self, name: str, ids: list[re.Match[str]]) -> Found:
        """Genes of a name that holds Ensembl ids."""
        own = [i for i in ids if i[1].upper() == ID_PREFIX[self.species]]
        if not own:
            return FOREIGN
        rest = [part.strip(_AT_ENDS) for part in _ID_INSIDE.sub("|", name).split("|")]
        if len({i[2] for i in ids}) > 1 or any(map(_PART_OF_GENE.fullmatch, rest)):
            return UNKNOWN
        found = self.exact(own[0][0])
        if not found:
            return UNKNOWN
        kind, genes = found
        if not any(map(self.is_current, genes)):
            symbol = _ID_INSIDE.sub("", name).strip(_AT_ENDS)
            genes += self.read(symbol, whole=True)[1]
        return kind, genes


def repeated(name: str, numbered: frozenset[str]) -> str | None:
    """Name without the number that makes it unique; None if the number is a part of it."""
    found = REPEAT.fullmatch(name)
    return None if found is None or found[1].upper() in numbered else found[1]


def strip_genome(name: str, species: str = "human") -> str:
    """Strip the genome that stands before the genes of a mixture of species."""
    return _own(species).sub("", name, count=1)


def _compiled() -> dict[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    """Species -> pattern of its prefixes, and pattern of what belongs to another one."""
    patterns = {}
    for species, own in _PREFIXES.items():
        others = [p.removesuffix("|gene") for s, p in _PREFIXES.items() if s != species]
        number = ID_PREFIX[species].removeprefix("ENS")
        other_ids = rf"ENS(?!{number}R?\d)[A-Z]{{0,6}}G\d{{11}}"
        patterns[species] = (
            re.compile(rf"^(?:{own})[._:|-]+(?=.)", re.IGNORECASE),
            re.compile(rf"(?:{'|'.join([*others, _RAT])})[._:|-]+.|{other_ids}", re.IGNORECASE),
        )
    return patterns


_PATTERNS = _compiled()


def _own(species: str) -> re.Pattern[str]:
    return _PATTERNS[species][0]


def _foreign(species: str) -> re.Pattern[str]:
    return _PATTERNS[species][1]
