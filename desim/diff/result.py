"""The results of a simulated run, read back from their folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.diff.activities import Activity
from desim.diff.names import HOST_COPY, Names
from desim.errors import Mistake, SpecError
from desim.export.titles import group_size
from desim.report.results import RESOLVED, SPANS, SUMMARY
from desim.spec.nodes import plain
from desim.spec.text_file import shown
from desim.spec.yaml_source import read_file

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("rank", "ranks", "lane", "name", "kind", "group", "start_ps", "end_ps")
_HOST_LANES = ("h2d", "d2h")


@dataclass(frozen=True, slots=True)
class Simulated:
    """One played rank of a run, and how many behave like it."""

    name: str
    rank: int
    like_it: int
    devices: int
    steps: int
    step_s: float
    activities: tuple[Activity, ...]


def read_result(folder: Path, rank: int | None, wanted: int | None, names: Names) -> Simulated:
    """Read a folder of results and choose a rank.

    That is `wanted` where given, else the last played rank up to `rank` (the trace's). Raises
    SpecError where files are missing or the rank was not played.
    """
    _require_files(folder)
    summary = _summary(folder / SUMMARY)
    table = _table(folder / SPANS)
    ranks = dict(
        zip(table.column("rank").to_pylist(), table.column("ranks").to_pylist(), strict=True)
    )
    chosen = _choose(sorted(ranks), rank, wanted)
    return Simulated(
        name=str(summary.get("name", folder.name)),
        rank=chosen,
        like_it=ranks[chosen],
        devices=int(summary.get("num_devices", sum(ranks.values()))),
        steps=_num_steps(folder / RESOLVED),
        step_s=float(summary["step_time_s"]),
        activities=tuple(_activities(table, chosen, names)),
    )


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        rule = "is no folder" if folder.exists() else "does not exist"
        raise _refuse(folder, rule, "name the folder of a run's results")
    missing = [name for name in (SUMMARY, SPANS) if not (folder / name).is_file()]
    if missing:
        hint = "write it by python -m desim SCENARIO --out DIR, without --no-trace"
        raise _refuse(folder, f"holds no {' and no '.join(missing)}", hint)


def _refuse(path: Path, rule: str, hint: str = "") -> SpecError:
    return SpecError([Mistake("", rule, hint=hint, file=shown(path))])


def _summary(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise _refuse(path, "is no JSON") from None
    if not isinstance(data, dict) or "step_time_s" not in data:
        raise _refuse(path, "is no summary of a run: it has no step_time_s")
    return data


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(_COLUMNS))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        first = str(error).splitlines()[0]
        raise _refuse(path, f"is no table of spans: {first}") from None


def _choose(played: list[int], rank: int | None, wanted: int | None) -> int:
    if wanted is not None and wanted not in played:
        some = ", ".join(map(str, played[:12])) + (", ..." if len(played) > 12 else "")
        hint = f"played, each for all that behave like it: {some}"
        raise SpecError([Mistake("--rank", "was not played", str(wanted), hint)])
    if wanted is not None:
        return wanted
    return max((one for one in played if one <= (rank or 0)), default=played[0])


def _num_steps(path: Path) -> int:
    """Steps that the record holds: `run.steps` of the scenario beside it."""
    if not path.is_file():
        return 1
    data = plain(read_file(path))
    run = data.get("run", {}) if isinstance(data, dict) else {}
    return int(run.get("steps", 1))


def _activities(table: pa.Table, rank: int, names: Names) -> Iterator[Activity]:
    import pyarrow.compute as pc

    rows = table.filter(pc.equal(table.column("rank"), rank)).to_pydict()
    for lane, name, kind, group, start_ps, end_ps in zip(
        *(rows[column] for column in _COLUMNS[2:]), strict=True
    ):
        start_ns, end_ns = (start_ps + 500) // 1000, (end_ps + 500) // 1000
        size = 0
        if lane in _HOST_LANES:
            kind, communicates = HOST_COPY, True
        elif lane == "compute":
            kind, communicates = names.kernel(name, kind), False
        else:
            size, communicates = group_size(group or ""), True
        yield Activity(name, kind, communicates, size, start_ns, end_ns)
