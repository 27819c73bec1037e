"""Rules of the task."""

from __future__ import annotations

from tests.spec.conftest import Load, Refuse


def test_rules(load: Load, refuse: Refuse) -> None:
    notes = load("workload.lora={rank: 4}").notes
    assert any("has no effect with task: pretrain" in note for note in notes)
    wide = refuse("workload.task=lora", "workload.lora={rank: 8192}")
    assert [m.path for m in wide] == ["workload.lora.rank"]
    twice = refuse("workload.task=lora", "workload.lora={targets: [qkv, qkv]}")
    assert [m.path for m in twice] == ["workload.lora.targets"]
    assert "workload.task" in {
        m.path for m in refuse("workload.task=lora", "workload.model=dlrm_a")
    }
