"""A pickle machine that builds plain values only.

A pickle is a program: its opcodes push values, name functions, call them and set the state of what
came out. Python's own unpicklers let a file choose that state, so NumPy and torch see lengths,
pointers and flags that nobody has checked, and the hash of a deeply nested key overflows the stack
of C. Here `pickletools` (public) reads the opcodes, and this machine does what they say for a
closed list of names. A name stands for a `Builder`, a function of ours that checks its arguments;
state is taken by values that await it (`Unfinished`) and by nothing else. Sizes are bounded before
anything of that size is made, keys are strings, numbers or short tuples of them, and a result that
is nested too deep, holds itself or multiplies by shared parts is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cellscribe.families.pickle_limits import (
    Damaged,
    Record,
    check,
    check_extent,
    distinct,
    put_pairs,
)

OPERATIONS = 12_000_000
"""Opcodes that a pickle may have; the longest published dictionaries have a few hundred thousand.
"""
CONTAINER = 8
"""Opcodes that a list, set or dictionary counts for: an empty one is a byte in the file only."""
BITS = 128
"""Of an integer, at most; torch's own mark has 77."""

Name = tuple[str, str]
"""Module and name of what a pickle would import."""


class Forbidden(pickle.UnpicklingError):
    """A pickle that names something that is not on the list."""


@dataclass(frozen=True)
class Builder:
    """What a name in a pickle stands for."""

    call: Callable[..., Any]
    """Makes a value, or an `Unfinished` one, of checked arguments."""


@dataclass(frozen=True)
class Named:
    """A name that is only an argument of other builders."""

    name: str


@dataclass
class Unfinished:
    """A value whose content comes later, as state; nothing else can be done with it before."""

    finish: Callable[[Any], Any]
    places: list[int] = field(default_factory=list)
    """Where the pickle has noted it."""


def run(
    data: bytes,
    names: Mapping[Name, Any],
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Do what a pickle says.

    Parameters
    ----------
    data
        Begins with the pickle.
    names
        Module and name -> `Builder` or a plain value.
    persistent
        Called with what a file keeps outside its pickle (torch: storages); None if it keeps none.

    Returns
    -------
    The value, and the number of bytes of `data` that were its pickle.

    Raises
    ------
    Forbidden
        A name that is not in `names`.
    Exception
        The pickle is damaged: `Damaged`, or what `pickletools` and Python raise.
    """
    file = io.BytesIO(data)
    value = _Machine(names, persistent).run(file)
    check_extent(value)
    return value, file.tell()


class _Machine:
    """State of a pickle that is being done."""

    def __init__(
        self, names: Mapping[Name, Any], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.unfinished = 0
        self.left = OPERATIONS

    def run(self, file: io.BytesIO) -> Any:
        doing: dict[str, Callable[[Any], None]] = {
            opcode: getattr(self, method) for opcode, method in OPCODES.items()
        }
        for opcode, argument, _ in pickletools.genops(file):
            self.left -= 1
            if self.left < 0:
                raise Damaged(f"more than {OPERATIONS:,} operations")
            do = doing.get(opcode.name)
            if do is None:
                raise Damaged(f"opcode {opcode.name}, which no file of plain values has")
            do(argument)
        check(self.unfinished == 0, "a value without its content")
        check(len(self.stack) == 1, "values left over at its end")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def nothing(self, _: Any) -> None:
        pass

    def integer(self, value: int) -> None:
        check(value.bit_length() <= BITS, f"an integer of {value.bit_length():,} bits")
        self.stack.append(value)

    def none(self, _: Any) -> None:
        self.stack.append(None)

    def true(self, _: Any) -> None:
        self.stack.append(True)

    def false(self, _: Any) -> None:
        self.stack.append(False)

    # Containers

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        check(bool(self.marks), "an end without a beginning")
        start = self.marks.pop()
        check(len(self.stack) >= start, "fewer values than it takes")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, *kinds: type) -> Any:
        """Last value, which must be of some kinds."""
        check(bool(self.stack) and type(self.stack[-1]) in kinds, "content for another value")
        return self.stack[-1]

    def container(self, value: Any) -> None:
        self.left -= CONTAINER
        self.stack.append(value)

    def empty_list(self, _: Any) -> None:
        self.container([])

    def empty_dict(self, _: Any) -> None:
        self.container({})

    def empty_set(self, _: Any) -> None:
        self.container(set())

    def empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def make_list(self, _: Any) -> None:
        self.container(self.marked())

    def make_dict(self, _: Any) -> None:
        pairs = self.marked()
        self.container({})
        self.set_pairs(pairs)

    def make_tuple(self, _: Any) -> None:
        self.container(tuple(self.marked()))

    def tuple_of(self, n: int) -> None:
        check(len(self.stack) >= n, "fewer values than it takes")
        self.left -= CONTAINER
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def tuple1(self, _: Any) -> None:
        self.tuple_of(1)

    def tuple2(self, _: Any) -> None:
        self.tuple_of(2)

    def tuple3(self, _: Any) -> None:
        self.tuple_of(3)

    def make_frozenset(self, _: Any) -> None:
        self.container(frozenset(distinct(self.marked())))

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self.marked()
        self.top(list).extend(values)

    def additems(self, _: Any) -> None:
        values = distinct(self.marked())
        self.top(set).update(values)

    def setitem(self, _: Any) -> None:
        pair = self.stack[-2:]
        del self.stack[-2:]
        self.set_pairs(pair)

    def setitems(self, _: Any) -> None:
        self.set_pairs(self.marked())

    def set_pairs(self, pairs: list[Any]) -> None:
        table = self.top(dict, OrderedDict)
        check(len(pairs) % 2 == 0, "a key without its value")
        put_pairs(table, zip(pairs[::2], pairs[1::2], strict=True), len(pairs) // 2)

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.marked()

    # Values that are used again

    def put(self, place: int) -> None:
        value = self.stack[-1]
        self.memo[place] = value
        if type(value) is Unfinished:
            value.places.append(place)

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def get(self, place: int) -> None:
        check(place in self.memo, "a value that it has not noted")
        value = self.memo[place]
        check(type(value) is not Unfinished, "a value that is used before its content is there")
        self.stack.append(value)

    # Names, calls, state

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.find(module, name)

    def stack_name(self, _: Any) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        check(isinstance(module, str) and isinstance(name, str), "a name that is no text")
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        # Python 2 had other names for the same modules
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) not in self.names:
            raise Forbidden(f"{module}.{name}")
        self.stack.append(self.names[module, name])

    def call(self, _: Any) -> None:
        arguments = self.stack.pop()
        builder = self.top(Builder)
        check(type(arguments) is tuple, "a call without arguments")
        self.spend(arguments)
        made = builder.call(*arguments)
        self.unfinished += type(made) is Unfinished
        self.stack[-1] = made

    def spend(self, arguments: Any) -> None:
        """Count what a call may copy, so that few calls on noted values do not fill the memory."""
        self.left -= CONTAINER
        for part in arguments if type(arguments) is tuple else ():
            if isinstance(part, list | tuple | dict | set | frozenset):
                self.left -= len(part)
            elif isinstance(part, str | bytes | bytearray):
                self.left -= len(part) // CONTAINER
        check(self.left >= 0, f"more than {OPERATIONS:,} operations")

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        self.spend(state)
        value = self.top(Unfinished, Record, OrderedDict)
        if type(value) is Record:
            check(value.fields is None, "content for another value")
            value.fields = state
            return
        if type(value) is OrderedDict:
            # torch notes versions of modules on its state dicts; nothing reads them
            check(isinstance(state, dict), "content for another value")
            return
        finished = value.finish(state)
        self.unfinished -= 1
        self.stack[-1] = finished
        for place in value.places:
            self.memo[place] = finished

    def outside(self, _: Any) -> None:
        if self.persistent is None:
            raise Damaged("a value that is kept outside the file")
        self.stack[-1] = self.persistent(self.stack[-1])


_PUSHED = (
    *("BYTEARRAY8", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
    *("STRING", "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "FLOAT", "BINFLOAT"),
)
OPCODES: Mapping[str, str] = {
    **dict.fromkeys(_PUSHED, "push"),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2"), "integer"),
    **dict.fromkeys(("LONG", "LONG1", "LONG4"), "integer"),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), "nothing"),
    **{"NONE": "none", "NEWTRUE": "true", "NEWFALSE": "false"},
    **{"EMPTY_LIST": "empty_list", "EMPTY_DICT": "empty_dict", "EMPTY_SET": "empty_set"},
    **{"EMPTY_TUPLE": "empty_tuple", "MARK": "mark", "LIST": "make_list", "DICT": "make_dict"},
    **{"TUPLE": "make_tuple", "TUPLE1": "tuple1", "TUPLE2": "tuple2", "TUPLE3": "tuple3"},
    **{"FROZENSET": "make_frozenset", "APPEND": "append", "APPENDS": "appends"},
    **{"ADDITEMS": "additems", "SETITEM": "setitem", "SETITEMS": "setitems"},
    **{"POP": "pop", "POP_MARK": "pop_mark", "MEMOIZE": "memoize"},
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), "put"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "get"),
    **{"GLOBAL": "name", "STACK_GLOBAL": "stack_name", "REDUCE": "call", "NEWOBJ": "call"},
    **{"BUILD": "build", "BINPERSID": "outside"},
}
"""Opcodes that are done, and by which method; all others are refused."""
