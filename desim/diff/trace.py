"""Traces of PyTorch's profiler (Kineto): steps, kernels and copies of one rank."""

from __future__ import annotations

import bisect
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from desim.diff.activities import Activity
from desim.diff.names import HOST_COPY, Names
from desim.errors import Mistake, SpecError
from desim.spec.text_file import shown

_KERNELS = ("kernel",)
_COPIES = ("gpu_memcpy", "gpu_memset", "memcpy", "memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime", "runtime")
_STEP = re.compile(r"ProfilerStep#?\s*(\d+)")
_RESOLUTION_NS = 1000  # older traces round to microseconds
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Trace:
    """One rank of a real run: its measured steps and what its GPU did in them.

    `rank` and `ranks` (of the whole job) are None where the trace does not say. `steps` holds the
    number and the seconds of each step; `launched_apart` counts activities outside of all steps.
    """

    rank: int | None
    ranks: int | None
    steps: tuple[tuple[int, float], ...]
    activities: tuple[Activity, ...]
    launched_apart: int

    @property
    def step_s(self) -> float:
        """The median length of a step: a host that runs ahead makes the first ones short."""
        return median(seconds for _, seconds in self.steps)


def read_trace(path: Path, names: Names) -> Trace:
    """Read a trace; raises SpecError for what is none, has no step or no GPU activity."""
    data = _parse(path)
    events = data.get("traceEvents") if isinstance(data, dict) else data
    if not isinstance(events, list) or not any(isinstance(event, dict) for event in events):
        raise _refuse(path, "is no trace: it holds no list `traceEvents`")
    complete = [e for e in events if isinstance(e, dict) and _is_complete(e)]
    gpu = [e for e in complete if _category(e) in (*_KERNELS, *_COPIES)]
    if not gpu:
        hint = "profile with ProfilerActivity.CUDA; of a simulated run, take result.write_kineto"
        raise _refuse(path, "holds no kernel of a GPU", hint)
    held = _steps(complete)
    if not held:
        hint = "call prof.step() after every step (torch.profiler.schedule)"
        raise _refuse(path, "holds no step (ProfilerStep#N)", hint)
    by_step = _by_step(gpu, held, _launch_times(complete))
    apart = len(gpu) - sum(map(len, by_step.values()))
    steps = [(number, end - start) for number, start, end in held if by_step[number]]
    if not steps:
        raise _refuse(path, "holds no kernel that was launched within a step")
    about = data.get("distributedInfo") if isinstance(data, dict) else None
    about = about if isinstance(about, dict) else {}
    return Trace(
        rank=_whole(about.get("rank")),
        ranks=_whole(about.get("world_size")),
        steps=tuple((number, length / 1e9) for number, length in steps),
        activities=tuple(_activity(e, names) for number, _ in steps for e in by_step[number]),
        launched_apart=apart,
    )


def _parse(path: Path) -> Any:
    if not path.exists():
        raise _refuse(path, "does not exist")
    if path.is_dir():
        raise _refuse(path, "is a folder", "name the trace of one rank in it")
    try:
        raw = path.read_bytes()
        if raw[:2] == _GZIP:
            raw = gzip.decompress(raw)
        return json.loads(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _refuse(path, "is cut off or damaged gzip", "copy it again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = getattr(error, "lineno", 0)
        end = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()) - 1
        rule = "ends in the middle: it is cut off" if raw and end else "is no JSON"
        raise _refuse(path, rule, "copy it again" if end else "", where) from None
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror or error}") from None


def _refuse(path: Path, rule: str, hint: str = "", line: int = 0) -> SpecError:
    return SpecError([Mistake("", rule, hint=hint, file=shown(path), line=line)])


def _is_complete(event: Mapping[str, Any]) -> bool:
    """Whether an event says when it began and how long it took."""
    times = (event.get("ts"), event.get("dur"))
    return event.get("ph") == "X" and all(isinstance(time, (int, float)) for time in times)


def _category(event: Mapping[str, Any]) -> str:
    return str(event.get("cat", "")).lower()


def _start_ns(event: Mapping[str, Any]) -> int:
    return round(float(event["ts"]) * 1000)


def _end_ns(event: Mapping[str, Any]) -> int:
    return _start_ns(event) + round(max(float(event["dur"]), 0.0) * 1000)


def _steps(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Number, start and end of each step in order: of the host where it marks them, else the GPU's.

    The host's marks follow each other without gaps, so that their length is the steps' period.
    """
    found: dict[bool, dict[int, tuple[int, int, int]]] = {False: {}, True: {}}
    for event in events:
        match = _STEP.match(str(event.get("name", "")))
        if match:
            number, on_gpu = int(match[1]), _category(event).startswith("gpu")
            found[on_gpu].setdefault(number, (number, _start_ns(event), _end_ns(event)))
    return sorted((found[False] or found[True]).values(), key=lambda step: step[1])


def _launch_times(events: Iterable[Mapping[str, Any]]) -> dict[Any, int]:
    """When the host launched what has each correlation."""
    times: dict[Any, int] = {}
    for event in events:
        if _category(event) in _LAUNCHES:
            correlation = _arguments(event).get("correlation")
            if correlation is not None:
                times[correlation] = _start_ns(event)
    return times


def _by_step(
    gpu: Iterable[Mapping[str, Any]],
    steps: list[tuple[int, int, int]],
    launched_ns: Mapping[Any, int],
) -> dict[int, list[Mapping[str, Any]]]:
    """GPU activities by the step in which the host launched them, or they began if not known."""
    starts = [start for _, start, _ in steps]
    held: dict[int, list[Mapping[str, Any]]] = {number: [] for number, _, _ in steps}
    for event in gpu:
        when = launched_ns.get(_arguments(event).get("correlation"), _start_ns(event))
        index = max(bisect.bisect_right(starts, when) - 1, 0)
        if steps[index][1] - _RESOLUTION_NS <= when <= steps[index][2] + _RESOLUTION_NS:
            held[steps[index][0]].append(event)
    return held


def _activity(event: Mapping[str, Any], names: Names) -> Activity:
    name, arguments = str(event.get("name", "")), _arguments(event)
    size = 0
    if _category(event) in _COPIES:
        kind = names.copy(name)
        communicates = kind == HOST_COPY
    else:
        kind = names.collective(name, str(arguments.get("Collective name", "")))
        communicates = bool(kind)
        if communicates:
            size = _whole(arguments.get("Group size")) or 0
        else:
            kind = names.kernel(name, str(arguments.get("desim kind", "")))
    return Activity(name, kind, communicates, size, _start_ns(event), _end_ns(event))


def _arguments(event: Mapping[str, Any]) -> Mapping[str, Any]:
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
