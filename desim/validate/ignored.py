"""What a file of step times says that nothing reads: words, columns, peaks that are no number.

A word that no rule reads sets nothing, and a column with another name leaves the row
as if it were not there: both look like errors of the simulation, so both are said.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from desim.validate.measurements import measured_peak_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from desim.validate.assumptions import Assumptions
    from desim.validate.play import Played

#: Columns of words, which only rules turn into settings.
WORDS = ("precision", "recompute", "zero_fsdp", "pipeline_schedule")
#: The columns of `step_time.csv`.
COLUMNS = (
    "id", "tier", "family", "source", "source_kind", "year", "framework", "gpu", "gpu_mem_gb",
    "num_gpus", "gpus_per_node", "intra_link", "inter_link", "model", "num_layers", "hidden",
    "heads", "kv_heads", "ffn_hidden", "vocab", "seq_len", "params_b", "moe", "precision", "tp",
    "sp", "cp", "pp", "vp", "ep", "dp", "zero_fsdp", "micro_batch", "global_batch", "recompute",
    "pipeline_schedule", "overlap", "measured_step_time_s", "measured_tokens_per_s_per_gpu",
    "measured_model_tflops_per_gpu", "measured_hw_tflops_per_gpu", "measured_mfu", "notes",
    "measured_peak_memory", "peak_memory_unit", "repeat_of",
)  # fmt: skip


def not_read(rows: Sequence[Played], assumptions: Assumptions) -> list[str]:
    """Return what nothing reads in the rows that became scenarios, one sentence each."""
    return [*_columns(rows, assumptions), *_words(rows, assumptions), *_peaks(rows)]


def _columns(rows: Sequence[Played], assumptions: Assumptions) -> Iterator[str]:
    names = list(rows[0].row.cells)
    ruled = {column for rule in assumptions.rules for column in rule.when}
    free = [column for column in COLUMNS if column not in names]
    for name in names:
        if name and name not in COLUMNS and name not in ruled:
            near = difflib.get_close_matches(name, free, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"column {name!r}{hint}"


def _words(rows: Iterable[Played], assumptions: Assumptions) -> Iterator[str]:
    unread: dict[tuple[str, str], list[str]] = {}
    for one in rows:
        for column in WORDS if one.scenario is not None else ():
            text = one.row.cells.get(column, "").strip()
            if text and not assumptions.reads(column, text):
                unread.setdefault((column, text), []).append(one.row.id)
    for (column, text), ids in unread.items():
        known = ", ".join(pattern for pattern in assumptions.words(column) if pattern) or "none"
        yield f"{column} {text!r} of {_some(ids)}: it sets nothing; words that rules read: {known}"


def _peaks(rows: Iterable[Played]) -> Iterator[str]:
    """Yield why peaks that stand beside step times cannot be compared."""
    wrong: dict[str, list[str]] = {}
    for one in rows:
        try:
            measured_peak_bytes(one.row)
        except ValueError as error:
            wrong.setdefault(str(error), []).append(one.row.id)
    for why, ids in wrong.items():
        yield f"the peak of memory of {_some(ids)}: {why}"


def _some(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
