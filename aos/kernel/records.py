"""Records: frozen dataclasses with slots, made and copied as fast as the state machine needs it.

A turn makes some twenty records and as many changed copies of them. The library's way (frozen classes set each field
through `object.__setattr__`, and `dataclasses.replace` looks at every field) was more than half of its cost. Here each
class has an open twin with the same slots: an instance is filled as one of the twin, by plain assignments, and then
becomes one of the frozen class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

__all__ = ["record", "replace"]

if TYPE_CHECKING:
    # The same to the type checker, which knows the fields of each class by these names only.
    from dataclasses import dataclass as record
    from dataclasses import replace
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """`dataclass(frozen=True, slots=True)` of plain fields: no bases, `__post_init__` or options of `field`."""
        if not (frozen and slots):
            raise TypeError("a record is frozen and has slots")

        def make(cls: type) -> type:
            made = dataclass(frozen=True, slots=True, init=False)(cls)
            made.__init__ = _initializer(made)
            return made

        return make

    def replace(record: Any, /, **changes: Any) -> Any:
        """A copy of a record (a dataclass with slots and without `__post_init__`) with other values in some fields."""
        try:
            copy = _COPIES[record.__class__]
        except KeyError:
            copy = _COPIES[record.__class__] = _copier(record.__class__)
        return copy(record, **changes)


_KEPT: Any = object()
_become: Any = object.__dict__["__class__"].__set__
"""Sets the class of an object past the guard of frozen ones."""
_COPIES: dict[type, Callable[..., Any]] = {}


def _initializer(cls: type) -> Callable[..., Any]:
    """The `__init__` of a record."""
    names, taken, scope = _names(cls), ["_made"], {"_become": _become}
    for field in fields(cls):
        if field.default_factory is not MISSING or field.kw_only or not (field.init and field.compare and field.repr):
            raise TypeError(f"{cls.__name__}.{field.name}: a record has plain fields, and defaults that never change")
        if field.default is MISSING:
            taken.append(field.name)
        else:
            taken.append(f"{field.name}=_default_{field.name}")
            scope[f"_default_{field.name}"] = field.default
    lines = ["_become(_made, _twin)", *(f"_made.{name} = {name}" for name in names), "_made.__class__ = _class"]
    return _compiled(cls, f"def __init__({', '.join(taken)})", lines, scope)


def _copier(cls: type) -> Callable[..., Any]:
    names = _names(cls)
    lines = [
        "_made = _new(_twin)",
        *(f"_made.{name} = _record.{name} if {name} is _kept else {name}" for name in names),
        "_made.__class__ = _class",
        "return _made",
    ]
    taken = ", ".join(f"{name}=_kept" for name in names)
    return _compiled(cls, f"def copy(_record, /, {taken})", lines, {"_new": object.__new__, "_kept": _KEPT})


def _compiled(cls: type, head: str, lines: list[str], scope: dict[str, Any]) -> Callable[..., Any]:
    """A function that knows the class and its open twin."""
    twin = type(cls.__name__, (), {"__slots__": tuple(_names(cls))})
    made: dict[str, Any] = {}
    body = "".join(f"\n    {line}" for line in lines)
    exec(f"{head}:{body}", {**scope, "_twin": twin, "_class": cls}, made)  # noqa: S102 - of names of our own fields
    (compiled,) = made.values()
    function: Callable[..., Any] = compiled
    return function


def _names(cls: type) -> list[str]:
    names = [field.name for field in fields(cls)]
    if cls.__bases__ != (object,) or hasattr(cls, "__post_init__") or any(name not in cls.__dict__ for name in names):
        raise TypeError(f"{cls.__name__} is not a dataclass with slots and nothing else")
    return names
