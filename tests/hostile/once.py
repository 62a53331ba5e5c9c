"""One case in this process: ``python -m hostile.once KIND TARGET HOW SEED [FOLDER]``."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

from hostile import farm, judge, worker


def main(words: list[str]) -> None:
    """Run a case, and print what was damaged, what became of it, and a traceback where one is."""
    case = judge.Case(words[0], words[1], words[2], int(words[3]))
    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(words[4] if len(words) > 4 else "/tmp/hostile-farm")
        farm.build(clean)
        worker.warm_up(clean)
        told = judge.where

        def where(error: BaseException) -> str:
            traceback.print_exception(error)
            return told(error)

        judge.where = where
        print(judge.run(case, clean, Path(scratch)))


if __name__ == "__main__":
    main(sys.argv[1:])
