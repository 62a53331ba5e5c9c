"""One check of values against type hints: of options, and of what is read back from JSON or TOML.

A hint is that of a dataclass's or a `TypedDict`'s field: bool, int, float, str, Path, None, Any,
Literal, Optional and unions, list, tuple, dict, other dataclasses, and `Annotated` with `Between`.
A value has the hint's type or is refused; nothing is guessed: no text becomes a number, no 1 a
True, no 2.0 a 2. Only what says the same is brought into the hint's form: a whole number where a
float is asked for, a list where a tuple is, a NumPy number where a plain one is.

It is written here, since pydantic, msgspec and jsonschema each would be one more dependency of the
core for what is less than 200 lines, and none gives one line that names the file and the field.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from cellscribe.config.renamed import RENAMED
from cellscribe.errors import InputError

LARGEST = (1 << 64) - 1
"""Of every whole number that has no bound of its own."""
SHOWN = 60
"""Letters of a refused value that a message shows."""
T = TypeVar("T")


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included; `above` is a lower one that is not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"from {self.least:,} to {self.most:,}"
        least = f"of {self.least:,} or more" if math.isfinite(self.least) else ""
        above = f"above {self.above:,}" if math.isfinite(self.above) else ""
        most = f"of at most {self.most:,}" if math.isfinite(self.most) else ""
        return " and ".join(part for part in (least, above, most) if part)


Count = Annotated[int, Between(least=0)]
"""A whole number that is not negative."""
Positive = Annotated[int, Between(least=1)]
"""A whole number of 1 or more."""
Share = Annotated[float, Between(0.0, 1.0)]
"""A number from 0 to 1."""


def check_value(hint: Any, value: Any, name: str) -> Any:
    """Return a value in the form that a hint asks for.

    Parameters
    ----------
    hint
        Type of the value, see the head of this file.
    value
        Anything.
    name
        Of the value in messages: ``settings.depth``, say.

    Raises
    ------
    InputError
        The value is not of that type, or out of its bounds; the line names it.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin is NotRequired:
        return check_value(args[0], value, name)
    if origin is Annotated:
        found = check_value(args[0], value, name)
        for bounds in args[1:]:
            if isinstance(bounds, Between) and found is not None:
                _check_bounds(bounds, found, value, name, args[0])
        return found
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in args):
            return value
        raise InputError(f"{name} must be {_either(args)}, not {shown(value)}")
    if origin in (Union, types.UnionType):
        return _check_union(args, value, name)
    if hint in PLAIN:
        return _check_plain(hint, value, name)
    if dataclasses.is_dataclass(hint) or is_typeddict(hint):
        return _check_fields(hint, value, name)
    return _check_container(origin or hint, args, value, name)


def from_mapping(
    kind: type[T], values: Mapping[str, Any], where: str, *, needed: Iterable[str] = ()
) -> T:
    """Make options of `kind` from a mapping.

    Parameters
    ----------
    kind
        A dataclass.
    values
        Field -> value; a field that is not given has its default. Former names are taken too.
    where
        File or function in messages.
    needed
        Fields that must be given although they have a default.

    Raises
    ------
    InputError
        A key is unknown; the line names it and the known ones. A field is missing, not of its
        type, out of its bounds, or refused by `kind`; the line names it.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a table, not {shown(values)}")
    hints, former = hints_of(kind), RENAMED.get(kind.__name__, {})
    for key in values:
        if key not in hints and key not in former:
            raise InputError(f"{where}: unknown key {shown(key)}; known are {', '.join(hints)}")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for name in (*(field.name for field in fields if _is_required(field)), *needed):
        if name not in values:
            raise InputError(f"{where}: {name} is missing")
    try:
        found = {
            key: check_value(hints[former.get(key, key)], value, key)
            for key, value in values.items()
        }
        return kind(**found)
    except (InputError, TypeError) as error:
        raise InputError(f"{where}: {error}") from None


def check_fields(options: Any) -> None:
    """Check every field of a dataclass that was made by hand, and bring it into its hint's form.

    Raises
    ------
    InputError
        A field is not of its type, or out of its bounds.
    """
    for name, hint in hints_of(type(options)).items():
        value = getattr(options, name)
        found = check_value(hint, value, name)
        if found is not value:
            object.__setattr__(options, name, found)


def hints_of(kind: Any) -> Mapping[str, Any]:
    """Name of each field of a dataclass or `TypedDict` -> its hint."""
    return _hints(kind)


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return hints


def shown(value: Any) -> str:
    """Describe a refused value in a few words."""
    if value is None:
        return "null"
    for kind, word in (((dict, Mapping), "a table"), ((list, tuple), "a list")):
        if isinstance(value, kind):
            return f"{word} of {len(value):,}" if len(value) else f"an empty {word[2:]}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return "a number that is far too large"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _check_bounds(bounds: Between, found: float, value: Any, name: str, hint: Any) -> None:
    if not (bounds.least <= found <= bounds.most and found > bounds.above):
        what = "a whole number" if hint is int else "a number"
        raise InputError(f"{name} must be {what} {bounds}, not {shown(value)}")


def _check_union(args: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in args:
        return None
    others = [each for each in args if each is not type(None)]
    if len(others) == 1:
        return check_value(others[0], value, name)
    for each in others:
        try:
            return check_value(each, value, name)
        except InputError as error:
            last = error
    raise last


def _boolean(value: Any) -> bool:
    if type(value) is not bool and type(value).__name__ not in ("bool_", "bool"):
        raise TypeError
    return bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError
    if abs(int(value)) > LARGEST:
        raise OverflowError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not math.isfinite(value):
        raise OverflowError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    return Path(value)


PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (_boolean, "true or false"),
    int: (_whole, "a whole number"),
    float: (_number, "a finite number"),
    str: (_text, "text"),
    Path: (_path, "a path"),
    type(None): (None, "null"),
}
"""Hint -> what brings a value into its form, and its name."""


def _check_plain(hint: Any, value: Any, name: str) -> Any:
    convert, what = PLAIN[hint]
    try:
        if convert is not None:
            return convert(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name} must be {what}, not {shown(value)}")


def _check_fields(kind: Any, value: Any, name: str) -> Any:
    """Check a table: a dataclass takes no key but its fields, a `TypedDict` lets others pass."""
    if dataclasses.is_dataclass(kind) and type(value) is kind:
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a table, not {shown(value)}")
    hints, dotted = hints_of(kind), f"{name}." if name else ""
    is_typed_dict = is_typeddict(kind)
    if is_typed_dict:
        # __required_keys__ is wrong where annotations are postponed
        optional = {key for key, hint in hints.items() if get_origin(hint) is NotRequired}
        missing = [key for key in hints if key not in value and key not in optional]
    else:
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name not in value and _is_required(field)
        ]
    if missing:
        raise InputError(f"{dotted}{missing[0]} is missing")
    for key in value:
        if key not in hints and not is_typed_dict:
            raise InputError(f"{dotted or ''}{shown(key)} is unknown; known are {', '.join(hints)}")
    found = {
        key: check_value(hints[key], each, f"{dotted}{key}") if key in hints else each
        for key, each in value.items()
    }
    return found if is_typed_dict else kind(**found)


def _check_container(origin: Any, args: tuple[Any, ...], value: Any, name: str) -> Any:
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a table, not {shown(value)}")
        key_hint, hint = args or (Any, Any)
        return {
            check_value(key_hint, key, f"a key of {name}"): check_value(
                hint, each, f"{name}.{str(key)[:SHOWN]}"
            )
            for key, each in value.items()
        }
    if origin in (list, tuple):
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            raise InputError(f"{name} must be a list, not {shown(value)}")
        value = list(value)
        hints = _hints_of_list(origin, args, len(value))
        if len(hints) != len(value):
            raise InputError(f"{name} must be a list of {len(hints):,}, not {shown(value)}")
        return origin(
            check_value(hint, each, f"{name}[{place}]")
            for place, (hint, each) in enumerate(zip(hints, value, strict=True))
        )
    if not isinstance(value, origin):
        wanted = getattr(origin, "__name__", origin)
        raise InputError(f"{name} must be of type {wanted}, not {shown(value)}")
    return value


def _hints_of_list(origin: Any, args: tuple[Any, ...], n: int) -> tuple[Any, ...]:
    if not args:
        return (Any,) * n
    if origin is tuple and (len(args) != 2 or args[1] is not Ellipsis):
        return args
    return (args[0],) * n


def _either(values: tuple[Any, ...]) -> str:
    words = [repr(value) if isinstance(value, str) else str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
