"""The vectors of a shard, read by blocks from its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 65_536
"""Rows read at a time."""
ID, VECTOR = "cell_id", "embedding"


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a part."""

    vectors: npt.NDArray[np.floating]
    """``[B, D]``."""
    cells: pa.Table
    """``cell_id`` and the columns of obs that were asked for; ``B`` rows."""


def read_parquet(path: Path, rows: int = ROWS) -> Iterator[Block]:
    """Read a part by blocks.

    Raises
    ------
    InputError
        It is no file of vectors, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            kind = file.schema_arrow.field(VECTOR).type
            if not pa.types.is_fixed_size_list(kind) or ID not in file.schema_arrow.names:
                raise InputError(f"{path}: holds no vectors of cells; give the folder of a run")
            width = kind.list_size
            for batch in file.iter_batches(rows):
                flat = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
                table = pa.Table.from_batches([batch]).drop_columns([VECTOR])
                yield Block(flat.reshape(-1, width), table)
    except (KeyError, OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read ({reason}); embed that source again") from None
