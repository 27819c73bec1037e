"""What `desim list` shows."""

from __future__ import annotations

import textwrap
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator

from desim.plan.schedules import AUTOMATIC, FOLDED_BACK, SCHEDULES
from desim.report.wrap import WIDTH
from desim.spec.base import Spec
from desim.spec.catalogue import list_names
from desim.spec.flags import ALL, FLAGS, NUMBER, Switches
from desim.spec.policy import Kernels, Policies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_SCHEDULE = "policies.schedule"
#: Columns by which what is said of a name stands to its right, and names below a heading.
_INDENT, _HEADING = 4, 2
_PLAIN: dict[object, str] = {
    bool: "true | false",
    int: "a whole number",
    str: "text",
    float: "a quantity with its unit",
}


def listing(kinds: Sequence[str]) -> str:
    """List names, one a line; a heading for each kind where there are several."""
    parts = []
    for kind in kinds:
        lines = list(_names(kind))
        if len(kinds) > 1:
            lines = [f"{kind}:", *(f"  {line}" for line in lines)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _names(kind: str) -> Iterator[str]:
    if kind == "schedules":
        for name, contract in _schedules():
            yield name
            for text in (contract, *FLAGS[_SCHEDULE][name]):
                yield from _below("", text)
    elif kind == "policies":
        yield from _policies()
    else:
        yield from list_names(kind)


def _policies() -> Iterator[str]:
    """Every setting with its default; below it what it may be and what switches each choice on."""
    rows = [
        *_options("policies", Policies, _defaults(Policies())),
        *_options("kernels", Kernels, _defaults(Kernels())),
    ]
    width = max(len(path) for path, _, _ in rows)
    for path, choices, default in rows:
        yield f"{path:<{width}}  default {default}"
        yield from _below("", choices)
        if path == _SCHEDULE:
            yield from _below("", "`list schedules` says what each is and what switches it on")
        else:
            yield from _switches(FLAGS.get(path, {}))


def _switches(switches: Switches) -> Iterator[str]:
    """What switches each choice on, one switch a line behind the choice."""
    alone = [*switches] in ([ALL], [NUMBER])
    column = 0 if alone else max(map(len, switches), default=0)
    for choice, flags in switches.items():
        for number, flag in enumerate(flags):
            head = choice if number == 0 and not alone else ""
            yield from _below(f"{head:<{column}}", flag)


def _below(head: str, text: str) -> Iterator[str]:
    """Wrap a text below a name, behind a head."""
    first = " " * _INDENT + (f"{head}  " if head else "")
    yield from textwrap.wrap(
        text,
        WIDTH - _HEADING,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _schedules() -> Iterator[tuple[str, str]]:
    """Every schedule with its contract."""
    for name, schedule in SCHEDULES.items():
        yield name, (schedule.__doc__ or "").splitlines()[0]
    for name, held in AUTOMATIC.items():
        chunks = "two chunks in a V" if name in FOLDED_BACK else "one chunk per stage"
        times = "schedule_memory" if held is None else f"{held:g}"
        memory = "" if held == 1 else f" {times} times"
        yield name, f"Zero bubble by a search, {chunks}, in{memory} the memory of 1F1B."
    yield "custom", "Orders of your own: policies.schedule: {orders: [F0 F1 B0 B1, F0 B0 F1 B1]}."


def _defaults(section: Spec) -> dict[str, Any]:
    """Every default of a section as it would be written, quantities with their units."""
    return section.model_dump(mode="json", by_alias=True)


def _options(
    path: str, spec: type[Spec], defaults: dict[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Every setting of a section with what it may be and what it is by default."""
    for name, field in spec.model_fields.items():
        key = field.alias or name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Spec):
            yield from _options(f"{path}.{key}", kind, defaults[key])
            continue
        plain = kind is float and not any(isinstance(m, BeforeValidator) for m in field.metadata)
        choices = "a number" if plain else _choices(kind)
        yield f"{path}.{key}", choices, _plain(defaults[key])


def _choices(kind: object) -> str:
    """Say what a type allows; a `float` that may be left out carries a unit."""
    if isinstance(kind, type) and issubclass(kind, Spec):
        return f"a mapping of {', '.join(kind.model_fields)}"
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(_plain(choice) for choice in parts)
    if origin is Annotated:
        return _choices(parts[0])
    if origin is tuple:
        return f"a list of {_choices(parts[0])}"
    if origin is dict:
        return f"a mapping from {_choices(parts[0])}"
    if origin in (Union, UnionType):
        kept = " or ".join(_choices(part) for part in parts if part is not type(None))
        return kept + (", or null" if type(None) in parts else "")
    return _PLAIN[kind]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
