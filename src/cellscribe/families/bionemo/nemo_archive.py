"""NeMo 1 archives (``.nemo``): a tar of a config, weights and artifacts.

Members may be named with a leading ``./``; artifacts have a hash before their name
(``4f1c_medians.json``), which is in the config. Nothing is unpacked: texts and weights are read
from the archive.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from cellscribe.errors import InputError
from cellscribe.families.source import AGAIN, TEXT, first_line, opened
from cellscribe.families.unpickle import load_torch

if TYPE_CHECKING:
    import torch

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MOST_PACKED = 100
"""Bytes of weights, at most, for a byte of the archive; weights hardly compress."""
_GZIP = b"\x1f\x8b"
_LINE = re.compile(r"^\s*([A-Za-z_]\w*)\s*:\s*(.*?)\s*(?:\s#.*)?$")

T = TypeVar("T")


def yaml_values(text: str) -> dict[str, str]:
    """Values of a YAML file's simple lines (``num_attention_heads: 4``), whatever their depth.

    A handful of settings with names of their own needs no YAML reader; if a name is there twice,
    the first one counts.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if (match := _LINE.match(line)) and match[2]:
            found.setdefault(match[1], match[2].strip("'\""))
    return found


class NemoArchive:
    """A ``.nemo`` file, its members by their names without a leading ``./``.

    Raises
    ------
    InputError
        The file cannot be read as an archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compressed = False
        self.members = self._guard(
            lambda archive: {
                str(PurePosixPath(member.name)): member
                for member in archive
                if member.isreg() and not member.issparse()
            }
        )

    def _guard(self, do: Callable[[tarfile.TarFile], T]) -> T:
        """Run `do` on the opened archive; errors become one line."""
        try:
            with opened(self.path) as file:
                self.compressed = file.read(2) == _GZIP
                file.seek(0)
                mode: Any = "r:gz" if self.compressed else "r:"
                with tarfile.open(fileobj=file, mode=mode) as archive:
                    return do(archive)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.path}: damaged or cut short ({first_line(error)}); {AGAIN}"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be read ({reason}); {AGAIN}") from None

    def text(self, name: str) -> str | None:
        """Text of a member; None where there is none."""
        if name not in self.members:
            return None
        if self.members[name].size > TEXT:
            raise InputError(f"{self.path}: {first_line(name)} in it is too long; {AGAIN}")
        data = self._guard(lambda archive: _member(archive, self.members[name]).read())
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {name} in it is not a text file; {AGAIN}") from None

    def artifact(self, setting: str, ending: str) -> str | None:
        """Find an artifact: by the config's `setting`, else by the end of its name."""
        value = yaml_values(self.text(CONFIG) or "").get(setting, "")
        name = str(PurePosixPath(value.removeprefix("nemo:")))
        if value.startswith("nemo:") and name in self.members:
            return name
        return next((name for name in sorted(self.members) if name.endswith(ending)), None)

    def weights(self) -> dict[str, torch.Tensor]:
        """Read the flat state dict, on the CPU; what is no tensor in it is left out.

        Raises
        ------
        InputError
            It is missing, damaged, split over several ranks, or holds more than plain values.
        """
        if WEIGHTS not in self.members:
            split = [name for name in self.members if name.endswith(f"/{WEIGHTS}")]
            if split:
                raise InputError(
                    f"{self.path}: its weights are split over several ranks ({split[0]}, ...); "
                    "merge them with NeMo first"
                )
            raise InputError(f"{self.path}: no {WEIGHTS} in it; not a NeMo 1 model, or cut short")
        weights = self._guard(self._read_weights)
        if not isinstance(weights, Mapping):
            raise InputError(f"{self.path}: {WEIGHTS} in it is no table of tensors")
        return {key: value for key, value in weights.items() if hasattr(value, "dtype")}

    def _read_weights(self, archive: tarfile.TarFile) -> Any:
        where = f"{self.path}:{WEIGHTS}"
        with _member(archive, self.members[WEIGHTS]) as member:
            if not self.compressed:
                return load_torch(member, where)
            if self.members[WEIGHTS].size > MOST_PACKED * self.path.stat().st_size:
                raise InputError(f"{self.path}: {WEIGHTS} in it is larger than any; {AGAIN}")
            # torch seeks in a file; gzip starts again from the beginning at each step back
            with tempfile.TemporaryFile() as plain:
                shutil.copyfileobj(member, plain, 1 << 20)
                plain.seek(0)
                return load_torch(plain, where)


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    member = archive.extractfile(info)
    assert member is not None, info.name  # only regular files are listed
    return member
