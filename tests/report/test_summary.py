"""The terminal summary is plain, narrow and short."""

from __future__ import annotations

import dataclasses
from typing import Any

from desim.analyze.breakdown import breakdown
from desim.record import PS_PER_S, Record
from desim.report.links import busiest_of_each_kind, link_rows
from desim.report.summary import render
from tests.records import make_record


def make_summary(record: Record) -> dict[str, Any]:
    """Return a summary with the keys of summary.json, for the hand-made record."""
    measured = breakdown(record)
    step_time_s = record.step_time_ps / PS_PER_S
    parts = (("compute", 0.8, "gemm"), ("exposed_tp", 0.15, "tp all-gather"), ("bubble", 0.05, "x"))
    return {
        "name": "llama70b_2048",
        "step_time_s": step_time_s,
        "tokens_per_s": 2.1e6,
        "tokens_per_s_per_device": 1025.3,
        "model_tflop_per_s_per_device": 412.7,
        "mfu": 0.417,
        "hfu": 0.417,
        "parameters": 68_976_648_192,
        "num_devices": 2048,
        "rank_classes": len(record.classes),
        "tasks": record.num_tasks,
        "events": record.num_events,
        "simulate_wall_s": record.simulate_wall_s,
        "time_share": measured.time_share,
        "critical_path_share": measured.time_share,
        "critical_path": [
            {"category": category, "seconds": share * step_time_s, "what": what}
            for category, share, what in parts
        ],
        "peak_memory_bytes": {str(i): m.peak_bytes for i, m in enumerate(record.memory)},
        "fits": True,
    }


def test_the_summary_fits_a_terminal() -> None:
    """ASCII, at most 100 columns and 40 lines, for few stages and for many."""
    for stages in (1, 2, 8, 24):
        record = make_record(stages=stages)
        text = render(make_summary(record), record, ["wrote out/x"])
        assert text.isascii()
        assert len(text.splitlines()) <= 40
        assert max(map(len, text.splitlines())) <= 100
        assert text.endswith("wrote out/x\n")


def test_the_summary_says_what_matters() -> None:
    """Headline, shares, stages, links and simulation cost are all there."""
    record = make_record()
    text = render(make_summary(record), record)
    for words in (
        "llama70b_2048: 2,048 GPUs, 69.0 billion parameters",
        "14.24 ms",
        "1,025 tokens/s",
        "41.7 %",
        "fits in 80.0 GiB",
        "exposed tp",
        "tp all-gather 15.0 %",
        "NVLink          50.1 %    90 %  (x8)",
        "1,000 events",
    ):
        assert words in text, words


def test_what_does_not_fit_is_loud() -> None:
    """Out of memory cannot be overlooked."""
    record = make_record()
    peaks = {"0": 90.0 * 2**30, "1": 70.0 * 2**30}
    text = render({**make_summary(record), "fits": False, "peak_memory_bytes": peaks}, record)
    assert "DOES NOT FIT in 80.0 GiB: 10.0 GiB too much" in text
    stages = [line for line in text.splitlines() if line.endswith("GiB  DOES NOT FIT")]
    assert len(stages) == 1


def test_a_recommendation_model_has_samples() -> None:
    """Without tokens the headline is samples per second."""
    record = make_record(stages=1)
    summary = make_summary(record)
    del summary["tokens_per_s"], summary["tokens_per_s_per_device"]
    text = render({**summary, "samples_per_s": 1.25e6}, record)
    assert "1,250,000 samples/s" in text
    assert "tokens" not in text


def test_links_say_what_they_are() -> None:
    """The two ways of a link are one row where they carry the same, of a stage if it is one's."""
    record = make_record()
    link = record.links[0]
    ways = [
        dataclasses.replace(link, name=f"{kind}[4]", kind=kind, count=4)
        for kind in ("nvlink_out", "nvlink_in")
    ]
    other = dataclasses.replace(link, name="leaf_up[su1.rail3]", kind="leaf_up")
    half = other.rate_bytes_per_s / 2
    down = dataclasses.replace(
        other, name="leaf_down[su1.rail3]", kind="leaf_down", rate_bytes_per_s=half
    )
    rows = link_rows(dataclasses.replace(record, links=(*ways, other, down)))
    assert [str(row.title) for row in rows] == [
        "NVLink in/out, stage 1 (x4)",
        "leaf up, unit 1 rail 3 (x8)",
        "leaf down, unit 1 rail 3 (x8)",
    ]
    assert [len(row.links) for row in rows] == [2, 1, 1]
    assert [row.title.what for row in busiest_of_each_kind(rows)] == ["NVLink", "leaf"]
