"""Text of Chrome trace events, made many at a time.

The pieces of equal events are made once and joined by C code, not one event at a time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

_FRACTIONS = [f".{n:03d}" for n in range(1000)]


def rounded_ns(times_ps: Integers) -> Integers:
    """Return times in picoseconds rounded to whole nanoseconds."""
    return (times_ps + 500) // 1000


def timestamp(time_ns: int) -> str:
    """Return a time in nanoseconds as the microseconds of a trace, without loss."""
    return f"{time_ns // 1000}{_FRACTIONS[time_ns % 1000]}"


def metadata(what: str, pid: int, tid: int, args: dict[str, Any]) -> str:
    """Return the event that says `what` of a process or thread."""
    event = {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}
    return json.dumps(event, separators=(",", ":")) + ",\n"


def slice_head(pid: int, tid: int, name: str, category: str, args: dict[str, Any]) -> str:
    """Return the beginning of a slice's event; `slice_place` continues its arguments."""
    inside = json.dumps(args, separators=(",", ":"))[1:-1]
    return (
        f'{{"ph":"X","pid":{pid},"tid":{tid},"name":{json.dumps(name)},"cat":"{category}",'
        f'"args":{{{inside}'
    )


def slice_place(args: dict[str, int]) -> str:
    """Return the rest of a slice's arguments, after those of its head."""
    return "".join(f',"{name}":{value}' for name, value in args.items()) + '},"ts":'


def slices(
    heads: Sequence[str],
    head: Integers,
    places: Sequence[str],
    place: Integers,
    start_ns: Integers,
    end_ns: Integers,
) -> str:
    """Return slices as one text; `head` and `place` index the texts that events share.

    Both ends are whole nanoseconds before the duration is taken: what touches keeps touching.
    """
    length_first, length = np.unique(end_ns - start_ns, return_inverse=True)
    tails = [f',"dur":{timestamp(time)}}},\n' for time in length_first.tolist()]
    pieces: list[str] = [""] * (5 * len(start_ns))
    pieces[0::5] = map(heads.__getitem__, head.tolist())
    pieces[1::5] = map(places.__getitem__, place.tolist())
    pieces[2::5] = map(str, (start_ns // 1000).tolist())
    pieces[3::5] = map(_FRACTIONS.__getitem__, (start_ns % 1000).tolist())
    pieces[4::5] = map(tails.__getitem__, length.tolist())
    return "".join(pieces)


def counter(pid: int, name: str, series: str, values: NDArray[np.float64], times: Integers) -> str:
    """Return samples of one series of a counter, at times in nanoseconds, as one text."""
    head = f'{{"ph":"C","name":{json.dumps(name)},"pid":{pid},"args":{{{json.dumps(series)}:'
    pieces: list[str] = [""] * (4 * len(times))
    template = head.replace("%", "%%") + '%.4g},"ts":'
    pieces[0::4] = map(template.__mod__, values.tolist())
    pieces[1::4] = map(str, (times // 1000).tolist())
    pieces[2::4] = map(_FRACTIONS.__getitem__, (times % 1000).tolist())
    pieces[3::4] = ["},\n"] * len(times)
    return "".join(pieces)


def flow_end(what: str, number: int, pid: int, tid: int, time_ns: int) -> str:
    """Return one end of an arrow: `what` is "s" where it begins, "f" where it ends."""
    bound = ',"bp":"e"' if what == "f" else ""
    return (
        f'{{"ph":"{what}"{bound},"name":"message","cat":"message","id":{number},"pid":{pid},'
        f'"tid":{tid},"ts":{timestamp(time_ns)}}},\n'
    )
