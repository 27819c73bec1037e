"""Link utilisation, memory peaks, and the choice of what is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from desim.analyze.choose import class_label, drawn_classes
from desim.analyze.links import busiest, utilisation
from desim.analyze.memory import overflow_message, owners_at_peak, sampled, stage_peaks
from desim.record import LinkClass
from tests.records import make_record


def _link(name: str, times: list[int], rates: list[float]) -> LinkClass:
    return LinkClass(name, "nic", 1, 100.0, np.array(times), np.array(rates))


def test_utilisation_is_the_mean_of_a_step_function() -> None:
    """Rates hold until the next sample; before the first nothing flows."""
    link = _link("a", [10, 20, 30], [50.0, 100.0, 0.0])
    edges = np.array([0.0, 10.0, 20.0, 25.0, 45.0])
    assert utilisation(link, edges) == pytest.approx([0.0, 0.5, 1.0, 0.25])


def test_busiest_comes_first_and_idle_links_are_left_out() -> None:
    """Order by mean utilisation; the peak counts only inside the window."""
    record = make_record()
    end = record.classes[0].window_ps[1]
    links = (
        _link("late", [end + 5], [100.0]),
        _link("little", [0, end // 10], [100.0, 0.0]),
        _link("half", [0], [50.0]),
    )
    uses = busiest(dataclasses.replace(record, links=links))
    assert [use.link.name for use in uses] == ["half", "little"]
    assert [use.mean for use in uses] == pytest.approx([0.5, 0.1], rel=1e-6)
    assert [use.peak for use in uses] == [0.5, 1.0]


def test_owners_at_peak_sum_to_the_peak() -> None:
    """The peak is explained without rest, largest owner first."""
    record = make_record()
    for peak, memory in zip(stage_peaks(record), record.memory, strict=True):
        assert sum(peak.owners.values()) == pytest.approx(peak.peak_bytes)
        assert list(peak.owners.values()) == sorted(peak.owners.values(), reverse=True)
        assert peak.owners == owners_at_peak(memory)


def test_sampling_keeps_the_peak() -> None:
    """Fewer samples, in order, with the first, the last and the highest."""
    memory = make_record(stages=2, micro_batches=16, layers=20).memory[0]
    kept = sampled(memory, 50)
    assert len(kept) <= 53
    assert {0, memory.peak_index, len(memory.time_ps) - 1} <= set(kept.tolist())
    assert np.all(np.diff(kept) > 0)


def test_overflow_names_the_smallest_change_that_fits() -> None:
    """Changes that save too little are passed over, and larger ones than needed too."""
    peak = stage_peaks(make_record())[0]
    capacity = peak.peak_bytes - 2**30
    changes = {"A": 0.5 * 2**30, "B": 4.0 * 2**30, "C": 2.0 * 2**30}
    text = overflow_message(peak, capacity, changes)
    assert "1 GiB more" in text
    assert "gradients 16 GiB" in text
    assert "C would fit (saves 2 GiB)" in text
    assert "no single known change" in overflow_message(peak, capacity, {"A": 1.0})


def test_drawn_classes_hold_every_stage_first() -> None:
    """With a limit, each stage has its largest class and then the rarest classes follow."""
    record = make_record()
    base = record.classes[0]
    classes = tuple(
        dataclasses.replace(base, representative=10 * index, count=count, stage=stage)
        for index, (stage, count) in enumerate([(0, 5), (0, 90), (1, 95), (1, 1), (1, 4)])
    )
    many = dataclasses.replace(record, classes=classes)
    assert drawn_classes(many, 9) == [0, 1, 2, 3, 4]
    assert drawn_classes(many, 3) == [1, 2, 3]
    assert drawn_classes(many, 1) == [1]
    assert class_label(many, 3) == "stage 1: rank 30 (x1)"
