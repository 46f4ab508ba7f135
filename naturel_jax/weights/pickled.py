"""Reads PyTorch's pickles as data: a pickle is a program for a stack machine, and this one can only build values.

It has no instruction that imports or calls anything. A global is a name: those in ``REBUILDERS`` have a meaning, and
classes of TorchScript become ``Module``. Any other name or instruction is refused. An instruction that goes through a
container counts each of its elements, so that a container named again and again is paid for each time.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

WORK = 500_000  # most per pickle; a checkpoint with 1,000 tensors and their optimizer state takes 150,000
_MAX_ARGUMENTS = 8  # of a call: a tensor has six
_MAX_NAME = 1000  # characters of a global
_MAX_SIDES = 64  # of a tensor, as in NumPy
_MAX_KEY = 1 << 24  # of a dictionary: larger numbers, and floats, can be chosen so that many have one hash

# Storage class -> dtype, by safetensors' names.
DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class Refused(ValueError):
    """A pickle that holds something other than tensors and plain values."""


class Malformed(ValueError):
    """Bytes that are not a valid pickle."""


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """A global: module and qualified name, separated by a space."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """``numel`` elements of ``dtype`` (a value of ``DTYPES``), in the part of the file that is called ``key``."""

    key: str
    dtype: str
    numel: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a storage; ``offset`` and ``strides`` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Module:
    """An object of a TorchScript class: its attributes, or none if the class has its own ``__setstate__``."""

    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def _natural_numbers(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or not all(type(value) is int and 0 <= value < 1 << 48 for value in values):
        raise Malformed("a tensor's shape, strides or offset are not whole numbers")
    return values


def _storage(reference: object) -> Storage:
    """The storage of a persistent id: ("storage", class, key, device, numel), followed in old files by a view that is
    None."""
    match reference:
        case ("storage", Name(name=name), str(key), _, int(numel), *view) if view in ([], [None]):
            if dtype := DTYPES.get(name.removeprefix("torch ")):
                return Storage(key, dtype, *_natural_numbers((numel,)))
    raise Malformed("a persistent id is not a storage")


def _tensor(source: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """Raises Malformed if the view is larger than the storage or reaches out of it."""
    if not isinstance(source, Storage):
        raise Malformed("a tensor without a storage")
    (start,), sides, steps = _natural_numbers((offset,)), _natural_numbers(shape), _natural_numbers(strides)
    if len(sides) > _MAX_SIDES:
        raise Malformed(f"a tensor of {len(sides):,} sides; the limit is {_MAX_SIDES}")
    elements, last = 1, start
    for side, step in zip(sides, steps, strict=True):
        elements, last = elements * side, last + max(side - 1, 0) * step
        if elements > source.numel:
            raise Malformed(f"a tensor of shape {list(sides)} on a storage of {source.numel:,} elements")
    if elements and last >= source.numel:
        raise Malformed(f"a tensor reaches element {last:,} of a storage of {source.numel:,}")
    return Tensor(source, start, sides, steps)


def _first(value: object, *_: object) -> object:
    return value


def _mapping(pairs: object = ()) -> dict[Any, Any]:
    if type(pairs) not in (list, tuple):
        raise Malformed("an OrderedDict of something other than pairs")
    result: dict[Any, Any] = {}
    for key, value in pairs:  # type: ignore[attr-defined]
        result[_hashable_key(key)] = value
    return result


# Global -> what calling it with the pickle's arguments builds.
REBUILDERS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _first,
    "torch Size": _first,
    "torch device": _first,
    **{f"torch.jit._pickle {name}": _first for name in ("build_intlist", "build_doublelist", "build_boollist")},
    "torch.jit._pickle build_tensorlist": _first,
    "torch.jit._pickle restore_type_tag": _first,
}
_VALUES = {f"torch {name}" for name in DTYPES} | {
    f"torch {name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
}
_SCRIPT = "__torch__"  # first package of every TorchScript class


def _hashable_key(key: object) -> object:
    """``key``, if it hashes fast (nested tuples can take forever), and unlike others."""
    if type(key) not in (str, int, bool, type(None)):
        raise Malformed(f"a key is a {type(key).__name__}")
    if isinstance(key, int) and abs(key) > _MAX_KEY:
        raise Malformed(f"a key is a number beyond {_MAX_KEY:,}")
    return key


class _Machine:
    """State while reading a pickle: the stack, the stacks below open marks, the memo, the storages named so far, and
    how much work was done."""

    def __init__(self) -> None:
        self.work = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def count(self, *containers: Any) -> None:
        """Counts an instruction that goes through ``containers``. Raises Malformed beyond ``WORK``."""
        self.work += 1 + sum(len(value) for value in containers if type(value) in (list, tuple, dict))
        if self.work > WORK:
            raise Malformed(f"takes more than {WORK:,} instructions")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise Malformed("the stack is empty")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, index: int) -> None:
        if index > WORK:
            raise Malformed(f"numbers a value higher than {WORK:,}")
        self.memo[index] = self.stack[-1]

    def name(self, name: str) -> None:
        if len(name) > _MAX_NAME:
            raise Malformed("a global with a name that is too long")
        if name not in REBUILDERS and name not in _VALUES and name.split(" ")[0].split(".")[0] != _SCRIPT:
            raise Refused(name)
        self.push(Name(name))

    def stack_name(self) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str or len(module) + len(name) >= _MAX_NAME:
            raise Malformed("a global without a name, or with one that is too long")
        self.name(f"{module} {name}")

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Name) or type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
            raise Malformed(f"a call of something other than a global with up to {_MAX_ARGUMENTS} arguments")
        if function.name not in REBUILDERS:
            raise Refused(function.name)
        self.count(*arguments)
        self.push(REBUILDERS[function.name](*arguments))

    def new(self) -> None:
        cls, arguments = self.pop(2)
        if not isinstance(cls, Name) or not cls.name.startswith(_SCRIPT) or arguments != ():
            raise Refused(cls.name if isinstance(cls, Name) else "an object without a class")
        self.push(Module())

    def build(self) -> None:
        """Sets the attributes of the object on top. A state dict's own attributes (``_metadata``) are dropped."""
        (state,) = self.pop(1)
        self.count(state)
        match self.stack[-1]:
            case Module(attributes=attributes):
                if type(state) is dict:
                    attributes.update(state)
            case dict():
                pass
            case other:
                raise Refused(f"attributes of a {type(other).__name__}")

    def persistent(self) -> None:
        (reference,) = self.pop(1)
        self.count(reference)
        new = _storage(reference)
        known = self.storages.setdefault(new.key, new)
        if known != new:
            shapes = f"{known.numel:,} {known.dtype} and as {new.numel:,} {new.dtype}"
            raise Malformed(f"storage {new.key!r:.80} is declared twice, as {shapes}")
        self.push(known)

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Malformed(f"appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise Malformed(f"sets keys of a {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_hashable_key(key)] = value


def _push(make: Callable[[Any], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, arg: machine.push(make(arg))


_ARGUMENT = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, arg: None,
    "FRAME": lambda machine, arg: None,
    **{name: _push(lambda arg: arg) for name in (*_ARGUMENT, "BINSTRING", "SHORT_BINSTRING")},
    "NONE": _push(lambda arg: None),
    "NEWTRUE": _push(lambda arg: True),
    "NEWFALSE": _push(lambda arg: False),
    "EMPTY_DICT": _push(lambda arg: {}),
    "EMPTY_LIST": _push(lambda arg: []),
    "EMPTY_TUPLE": _push(lambda arg: ()),
    "MARK": lambda machine, arg: machine.mark(),
    "TUPLE": lambda machine, arg: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, arg: machine.push(machine.pop(1)),
    "TUPLE2": lambda machine, arg: machine.push(machine.pop(2)),
    "TUPLE3": lambda machine, arg: machine.push(machine.pop(3)),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, arg: machine.put(len(machine.memo)),
    "BINGET": lambda machine, arg: machine.push(machine.memo[arg]),
    "LONG_BINGET": lambda machine, arg: machine.push(machine.memo[arg]),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda machine, arg: machine.stack_name(),
    "REDUCE": lambda machine, arg: machine.reduce(),
    "NEWOBJ": lambda machine, arg: machine.new(),
    "BUILD": lambda machine, arg: machine.build(),
    "BINPERSID": lambda machine, arg: machine.persistent(),
    "APPEND": lambda machine, arg: machine.append(list(machine.pop(1))),
    "APPENDS": lambda machine, arg: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, arg: machine.set(list(machine.pop(2))),
    "SETITEMS": lambda machine, arg: machine.set(machine.pop_to_mark()),
}


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """The value of the pickle at the file's position, and its storages by key; leaves the file after the pickle.

    Values are numbers, strings, lists, tuples, dicts, ``Tensor``, ``Storage``, ``Module`` and ``Name``. Raises Refused
    naming what else the pickle holds, Malformed if it is not one.
    """
    machine = _Machine()
    try:
        for opcode, arg, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop(), machine.storages
            if opcode.name not in _INSTRUCTIONS:
                raise Refused(f"instruction {opcode.name}")
            machine.count()
            _INSTRUCTIONS[opcode.name](machine, arg)
    except (Refused, Malformed):
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise Malformed(str(error)) from error
    raise Malformed("it does not end")
