"""What HolisticTraceAnalysis needs is in the Kineto files."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from desim.analyze.accounting import account
from desim.api import load, run
from desim.export.kineto import write_kineto
from tests.records import make_record

_SCENARIOS = Path(__file__).parents[2] / "scenarios"


def _events(path: Path, category: str) -> list[dict[str, Any]]:
    trace = json.loads(gzip.decompress(path.read_bytes()))
    return [event for event in trace["traceEvents"] if event.get("cat") == category]


def test_what_the_reader_looks_for(tmp_path: Path) -> None:
    """Rank with its space, two steps, unique correlations, names and streams."""
    record = make_record()
    paths = write_kineto(record, tmp_path / "kineto")
    assert [path.name for path in paths] == ["rank0.pt.trace.json.gz", "rank4.pt.trace.json.gz"]
    for index, path in enumerate(paths):
        rank = record.classes[index].representative
        text = gzip.decompress(path.read_bytes()).decode()
        assert re.search(r'"rank":\s+(\d+)', text).group(1) == str(rank)  # type: ignore[union-attr]
        steps = [event["name"] for event in _events(path, "user_annotation")]
        assert steps == ["ProfilerStep#0", "ProfilerStep#1"]
        kernels = _events(path, "kernel")
        assert len(kernels) == len(record.spans_of(index))
        correlations = [event["args"]["correlation"] for event in kernels]
        launched = [event["args"]["correlation"] for event in _events(path, "cuda_runtime")]
        assert len(set(correlations)) == len(correlations)
        assert sorted(launched) == sorted(correlations)
        assert min(event["args"]["stream"] for event in kernels) >= 1
        # In a column of 8 bits the reader could not put the numbers of its rows.
        assert min(correlations) > 1 << 15
        assert max(correlations) < 1 << 31
        names = {event["name"] for event in kernels}
        assert "ncclDevKernel_AllGather_tp_all-gather" in names
        assert {"qkv", "attention", "adam"} <= names


@pytest.mark.parametrize("scenario", [None, "llama70b_2048", "dlrm_a_128"])
def test_the_reader_agrees_with_the_record(
    scenario: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its computing, exposed and idle times are ours, when the package is installed."""
    module = pytest.importorskip("hta.trace_analysis")
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    record = run(load(_SCENARIOS / f"{scenario}.yaml")).record if scenario else make_record()
    write_kineto(record, tmp_path / "kineto")
    analysis = module.TraceAnalysis(trace_dir=str(tmp_path / "kineto"))
    frame = analysis.get_temporal_breakdown(visualize=False)
    for index, rank_class in enumerate(record.classes):
        spans = record.spans_of(index)
        computing = int((spans.end_ps - spans.start_ps)[spans.lane == 0].sum()) / 1e6
        row = frame[frame["rank"] == rank_class.representative].iloc[0]
        # Times are whole nanoseconds: half of one is lost at each end of a kernel.
        assert row["compute_time(us)"] == pytest.approx(computing, abs=1, rel=1e-6)
        categories = account(spans, rank_class.window_ps, frozenset())
        exposed = sum(time for name, time in categories.items() if name.startswith("exposed_"))
        assert row["non_compute_time(us)"] == pytest.approx(exposed / 1e6, abs=1, rel=1e-6)
