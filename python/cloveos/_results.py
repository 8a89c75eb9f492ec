"""How a task's result travels: pickled by the agent with a few constructors of ours, and built only from those.

An agent may be hostile, and a pickle is a program. So the agent's side reduces every value to plain data and the
constructors of :class:`_Builder`; the caller's side scans the opcodes (`_pickle_scan`), resolves no name but these, and
each constructor checks its arguments and charges what it copies. Numpy's own reduction isn't taken:
`dtype.__setstate__` believes the offsets and flags that it is given, which reads and writes out of bounds.
"""

from __future__ import annotations

import builtins
import io
import pickle
import re
import sys
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import _pickle_scan
from .errors import UntrustedResult, printable

_HERE = "cloveos._results"
_ADVICE = (
    "Return numbers, text, bytes, lists, tuples, sets, dicts, dates, paths or numpy arrays, "
    "or pass trust_results=True to the Executor if you trust what its tasks run"
)

# ---------------------------------------------------------------------------------------------- the agent's side


def dumps(value: Any) -> bytes:
    """Pickles a result so that :func:`loads` takes it. Raises TypeError naming a class that it wouldn't take."""
    out = io.BytesIO()
    _Pickler(out, 5).dump(value)
    return out.getvalue()


def dumps_trusted(value: Any) -> bytes:
    """Pickles anything, for a caller with `trust_results=True`; cloudpickle helps where plain pickle can't."""
    try:
        return pickle.dumps(value, 5)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        return bytes(cloudpickle.dumps(value, 5))


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(obj)
        if kind is _FUNCTION and obj in _OURS:
            return NotImplemented  # by its name
        module = kind.__module__
        if module == "numpy" or module.startswith("numpy."):
            reduced = _reduce_numpy(obj)
            if reduced is not None:
                return reduced
        if isinstance(obj, BaseException):
            return _reduce_exception(obj)
        if module == "pathlib" or module.startswith("pathlib."):
            flavour = "windows" if "Windows" in kind.__name__ else "posix"
            return _make("path"), (flavour, kind.__name__.startswith("Pure"), str(obj))
        if obj is Ellipsis:
            return _make("ellipsis"), ()
        raise TypeError(f"the task returned {_describe(obj)}, which isn't taken from an agent. {_ADVICE}")


def _describe(obj: Any) -> str:
    if isinstance(obj, type):
        return f"the class {obj.__module__}.{obj.__qualname__}"
    kind = type(obj)
    if kind.__module__ == "builtins":
        return f"a {kind.__qualname__}"
    return f"an object of class {kind.__module__}.{kind.__qualname__}"


def _reduce_numpy(obj: Any) -> Any:
    np = sys.modules["numpy"]
    if isinstance(obj, np.generic) and type(obj) is not np.void:
        if obj.dtype.hasobject:
            return None
        return _make("scalar"), (_dtype_text(obj.dtype), obj.tobytes())
    if type(obj) is np.ndarray:
        if obj.dtype == object:
            return _make("objects"), (obj.shape, obj.ravel().tolist())
        if obj.dtype.hasobject:
            return None
        order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
        data: Any
        if obj.size and obj.flags.forc and obj.flags.writeable and obj.dtype.kind in "biufc":
            data = pickle.PickleBuffer(obj)  # goes out as a bytearray, without a copy before
        else:
            data = bytearray(obj.tobytes(order))
        return _make("array"), (_dtype_text(obj.dtype), obj.shape, order, data)
    if isinstance(obj, np.dtype) and not obj.hasobject:
        return _make("dtype"), (_dtype_text(obj),)
    return None


def _dtype_text(dtype: Any) -> Any:
    """What `numpy.dtype` builds it from again: text, or for a structured one its list of fields."""
    if dtype.names is None and dtype.subdtype is None:
        return dtype.str
    return [tuple(_field(f)) for f in dtype.descr]


def _field(field: Tuple[Any, ...]) -> List[Any]:
    return [list(map(tuple, part)) if isinstance(part, list) else part for part in field]


def _reduce_exception(error: BaseException) -> Any:
    kind = type(error)
    if kind.__module__ != "builtins" or getattr(builtins, kind.__name__, None) is not kind:
        raise TypeError(
            f"exceptions of class {kind.__module__}.{kind.__qualname__} aren't built from what an agent sends"
        )
    args = error.args
    reduced = error.__reduce__()  # OSError and the Unicode errors know more than their args
    if isinstance(reduced, tuple) and len(reduced) > 1:
        args = reduced[1]
    return _make("exception"), (kind.__name__, args)


#: A function for each constructor, which pickles as the global `cloveos._results.make_NAME`.
_REFERENCES: Dict[str, Any] = {}
_OURS: Set[Any] = set()
_FUNCTION = type(_describe)


def _make(name: str) -> Any:
    return _REFERENCES[name]


def _reference(name: str) -> None:
    def refuse(*_: Any) -> Any:
        raise UntrustedResult("only cloveos.Executor reads this pickle")

    refuse.__module__, refuse.__qualname__, refuse.__name__ = _HERE, "make_" + name, "make_" + name
    globals()["make_" + name] = refuse
    _REFERENCES[name] = refuse
    _OURS.add(refuse)


# ---------------------------------------------------------------------------------------------- the caller's side


def loads(data: bytes) -> Any:
    """Builds a result from what an agent sent. Raises :class:`UntrustedResult` for anything but plain values."""
    try:
        _pickle_scan.scan(data)
        return _Unpickler(data).load()
    except UntrustedResult:
        raise
    except _pickle_scan.Refused as e:
        raise UntrustedResult(f"the task's result isn't taken: {e}. {_ADVICE}") from None
    except Exception as e:
        # Whatever a constructor says about its arguments is about what the agent sent.
        raise UntrustedResult(f"the task's result is malformed: {type(e).__name__}: {str(e)[:200]}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._builder = _Builder(budget=(1 << 20) + 16 * len(data))

    def find_class(self, module: str, name: str) -> Any:
        if module == _HERE:
            make = self._builder.constructors.get(name)
            if make is not None:
                return make
        raise UntrustedResult(
            f"the task returned something made with {str(module)[:100]}.{str(name)[:100]}, "
            f"which isn't taken from an agent. {_ADVICE}"
        )


_DTYPE = re.compile(r"[<>|=]?(?:[biufcmMSUV?][0-9]*(?:\[[0-9]*[A-Za-z]+\])?)\Z")


class _Builder:
    """The constructors that a result may use. Each copies no more than its budget allows."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.constructors: Dict[str, Callable[..., Any]] = {"make_" + name: getattr(self, name) for name in _NAMES}

    def _charge(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise UntrustedResult("the task's result would grow far beyond what was sent")

    def complex(self, real: Any, imag: Any) -> Any:
        return complex(_exact(real, float), _exact(imag, float))

    def range(self, start: Any, stop: Any, step: Any) -> Any:
        return range(_exact(start, int), _exact(stop, int), _exact(step, int))

    def slice(self, start: Any, stop: Any, step: Any) -> Any:
        return slice(start, stop, step)

    def ellipsis(self) -> Any:
        return Ellipsis

    def decimal(self, text: Any) -> Any:
        import decimal

        self._charge(len(_exact(text, str)))
        return decimal.Decimal(text)

    def fraction(self, numerator: Any, denominator: Any) -> Any:
        import fractions

        # Reducing it takes time as the square of its length.
        length = max(_exact(numerator, int).bit_length(), _exact(denominator, int).bit_length()) // 8
        self._charge(length * length // 64)
        return fractions.Fraction(numerator, denominator)

    def uuid(self, number: Any) -> Any:
        import uuid

        return uuid.UUID(int=_exact(number, int))

    def path(self, flavour: Any, pure: Any, text: Any) -> Any:
        import pathlib

        self._charge(len(_exact(text, str)))
        if _exact(flavour, str) == "windows":
            return pathlib.PureWindowsPath(text)
        return pathlib.PurePosixPath(text) if pure else pathlib.Path(text)

    def date(self, *parts: Any) -> Any:
        import datetime

        return datetime.date(*_ints(parts))

    def datetime(self, zone: Any, fold: Any, *parts: Any) -> Any:
        import datetime

        return datetime.datetime(*_ints(parts), tzinfo=_zone(zone), fold=_exact(fold, int))  # type: ignore[misc]

    def time(self, zone: Any, fold: Any, *parts: Any) -> Any:
        import datetime

        return datetime.time(*_ints(parts), tzinfo=_zone(zone), fold=_exact(fold, int))  # type: ignore[misc]

    def timedelta(self, days: Any, seconds: Any, microseconds: Any) -> Any:
        import datetime

        return datetime.timedelta(*_ints((days, seconds, microseconds)))

    def timezone(self, offset: Any, name: Any) -> Any:
        import datetime

        _exact(offset, datetime.timedelta)
        return datetime.timezone(offset) if name is None else datetime.timezone(offset, _exact(name, str))

    def ordereddict(self) -> Any:
        import collections

        return collections.OrderedDict()

    def counter(self) -> Any:
        import collections

        return collections.Counter()

    def deque(self, maxlen: Any) -> Any:
        import collections

        return collections.deque(maxlen=maxlen if maxlen is None else _exact(maxlen, int))

    def defaultdict(self, factory: Any) -> Any:
        import collections

        return collections.defaultdict(_FACTORIES[factory])

    def dtype(self, spec: Any) -> Any:
        return _dtype(spec)

    def scalar(self, spec: Any, data: Any) -> Any:
        import numpy

        return numpy.frombuffer(_exact(data, bytes), dtype=_dtype(spec), count=1)[0]

    def array(self, spec: Any, shape: Any, order: Any, data: Any) -> Any:
        import numpy

        dtype = _dtype(spec)
        # A view of the bytes: nothing is copied, and frombuffer checks their number.
        flat = numpy.frombuffer(_exact(data, bytearray), dtype=dtype) if len(data) else numpy.empty(0, dtype)
        if dtype.kind == "b":
            # A bool of another value than 0 or 1 breaks what numpy assumes of it.
            self._charge(len(data))
            flat = flat.view("u1") != 0
        return flat.reshape(_shape(shape, len(flat)), order="F" if order == "F" else "C")

    def objects(self, shape: Any, items: Any) -> Any:
        import numpy

        self._charge(8 * len(_exact(items, list)))
        out: Any = numpy.empty(len(items), dtype=object)
        for i, item in enumerate(items):
            out[i] = item
        return out.reshape(_shape(shape, len(items)))

    def exception(self, name: Any, args: Any) -> Any:
        kind = getattr(builtins, _exact(name, str), None)
        # SystemExit and KeyboardInterrupt would end the caller's program.
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise UntrustedResult("only ordinary built-in exceptions are built from what an agent sends")
        self._charge(len(_exact(args, tuple)))
        return kind(*_printable_args(kind, args))


def _printable_args(kind: Any, args: Any) -> Any:
    """An exception's arguments, with all text in them that Python prints as it is made printable.

    A traceback that nobody catches goes to the caller's terminal. Paths stay exact: `str()` of an OSError shows their
    `repr`. So do the objects of Unicode errors, whose positions count.
    """
    exact: Set[int] = set()
    if kind is KeyError:
        return args  # its key is shown by its repr too
    if issubclass(kind, OSError):
        exact = {2, 4}
    elif issubclass(kind, UnicodeError):
        exact = {0 if kind is UnicodeTranslateError else 1}
    return tuple(arg if i in exact else _printable_arg(arg, 4) for i, arg in enumerate(args))


def _printable_arg(arg: Any, depth: int) -> Any:
    if type(arg) is str:
        return printable(arg)
    # SyntaxError has its file's name and line in a tuple.
    if type(arg) is tuple and depth:
        return tuple(_printable_arg(part, depth - 1) for part in arg)
    return arg


_NAMES = [name for name in vars(_Builder) if not name.startswith("_")]
_FACTORIES: Dict[Optional[str], Any] = {
    None: None, "list": list, "dict": dict, "set": set, "tuple": tuple,
    "int": int, "float": float, "str": str, "bool": bool,
}  # fmt: skip
for _name in _NAMES:
    _reference(_name)


def _exact(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} came where a {kind.__name__} belongs")
    return value


def _ints(parts: Any) -> Any:
    for part in parts:
        _exact(part, int)
    return parts


def _zone(zone: Any) -> Any:
    import datetime

    return zone if zone is None else _exact(zone, datetime.timezone)


def _shape(shape: Any, length: int) -> Any:
    _exact(shape, tuple)
    total = 1
    for n in shape:
        if _exact(n, int) < 0:
            raise ValueError("an array's side is negative")
        total *= n
    if len(shape) > 32 or total != length:
        raise ValueError("an array's shape doesn't fit its length")
    return shape


def _dtype(spec: Any) -> Any:
    import numpy

    _check_dtype(spec, 0)
    dtype = numpy.dtype(spec)
    if dtype.hasobject or not dtype.itemsize:
        raise TypeError("an array's type isn't plain")
    return dtype


def _check_dtype(spec: Any, depth: int) -> None:
    """Text of a plain type, or numpy's list of (name, type[, shape]); the list form has no offsets to lie about."""
    if type(spec) is str:
        if not _DTYPE.match(spec):
            raise TypeError(f"{spec[:40]!r} isn't a plain array type")
        return
    if depth > 4 or not 0 < len(_exact(spec, list)) <= 1000:
        raise TypeError("an array's type has too many fields")
    for field in spec:
        if len(_exact(field, tuple)) not in (2, 3) or type(field[0]) not in (str, tuple):
            raise TypeError("an array's field is malformed")
        for part in field[0] if type(field[0]) is tuple else ():
            _exact(part, str)
        _check_dtype(field[1], depth + 1)
        if len(field) == 3:
            _shape(field[2], _product(field[2]))


def _product(shape: Any) -> int:
    total = 1
    for n in _exact(shape, tuple):
        total *= _exact(n, int)
    if total > 1 << 24:
        raise TypeError("an array's field is too large")
    return total


# ------------------------------------------------------------------- the agent's side: reducers of standard types


def _reducers() -> Dict[type, Callable[[Any], Any]]:
    import collections
    import datetime
    import decimal
    import fractions
    import uuid

    make = _make

    def zone_of(value: Any) -> Any:
        zone = value.tzinfo
        if zone is None or type(zone) is datetime.timezone:
            return zone
        # A ZoneInfo is data of the agent's own tz files: its offset at that moment is what the value needs.
        offset = value.utcoffset()
        return datetime.timezone(offset) if offset is not None else None

    def reduce_timezone(value: Any) -> Any:
        args = value.__getinitargs__()
        return make("timezone"), (args[0], args[1] if len(args) > 1 else None)

    def reduce_defaultdict(value: Any) -> Any:
        factory = value.default_factory
        name = getattr(factory, "__name__", None)
        if _FACTORIES.get(name, _FACTORIES) is not factory:
            # A lambda can't travel; the values can.
            name = None
        return make("defaultdict"), (name,), None, None, iter(value.items())

    return {
        complex: lambda v: (make("complex"), (v.real, v.imag)),
        range: lambda v: (make("range"), (v.start, v.stop, v.step)),
        slice: lambda v: (make("slice"), (v.start, v.stop, v.step)),
        decimal.Decimal: lambda v: (make("decimal"), (str(v),)),
        fractions.Fraction: lambda v: (make("fraction"), (v.numerator, v.denominator)),
        uuid.UUID: lambda v: (make("uuid"), (v.int,)),
        datetime.date: lambda v: (make("date"), (v.year, v.month, v.day)),
        datetime.datetime: lambda v: (
            make("datetime"),
            (zone_of(v), v.fold, v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond),
        ),
        datetime.time: lambda v: (
            make("time"),
            (
                v.tzinfo if type(v.tzinfo) is datetime.timezone else None,
                v.fold,
                v.hour,
                v.minute,
                v.second,
                v.microsecond,
            ),
        ),
        datetime.timedelta: lambda v: (make("timedelta"), (v.days, v.seconds, v.microseconds)),
        datetime.timezone: reduce_timezone,
        collections.OrderedDict: lambda v: (make("ordereddict"), (), None, None, iter(v.items())),
        collections.Counter: lambda v: (make("counter"), (), None, None, iter(v.items())),
        collections.deque: lambda v: (make("deque"), (v.maxlen,), None, iter(v)),
        collections.defaultdict: reduce_defaultdict,
    }


_REDUCERS = _reducers()
