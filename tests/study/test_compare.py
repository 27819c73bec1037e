"""Comparisons of variants that are really played: their laws, and the files they leave."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import desim
from desim.analyze.difference import category_seconds, difference
from desim.api import predict
from desim.errors import SpecError
from desim.export.carry import carried
from desim.report.compared import model_errors, verdict
from desim.study.compare.comparison import compare, compare_variants
from desim.study.compare.given import given
from desim.study.compare.model_error import error_points, families, families_of
from desim.study.compare.play import shown_ranks
from desim.study.compare.retune import PATHS, parse_retune, require_free, retune
from desim.study.compare.variants import Variant, combine, parse_axis, varied
from desim.study.scalars import scalars
from tests.cli.conftest import ROOT
from tests.jobs import BASE, job

PIPELINE = ("parallel.pipeline=2", "parallel.tensor=2")


def variants(*axes: str, overrides: tuple[str, ...] = PIPELINE, **changes: Any) -> list[Variant]:
    settings = combine([parse_axis(axis) for axis in axes], paired=False)
    return varied({**BASE, **changes}, overrides, settings)


def quiet(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    "axes",
    [
        ("policies.schedule=1f1b,gpipe,zb_h1",),
        ("policies.overlap.tensor=none,megatron,chunked", "policies.recompute=none,full"),
        ("workload.micro_batch=1,2,4",),
        ("parallel.zero=0,1,2", "policies.overlap.grad_reduce=none,bucketed"),
        ("disturb=[],[{device: 3, compute: 0.5}]",),
        ("cluster.system=dgx_h100_ndr400,dgx_a100_80_hdr200",),
    ],
)
def test_the_categories_differences_sum_to_the_steps(axes: tuple[str, ...]) -> None:
    """For every pair of variants, to the promised 1e-6 s and far below it."""
    overrides = PIPELINE if "zero" not in axes[0] else ("parallel.tensor=2",)
    found = compare_variants("t", variants(*axes, overrides=overrides), draw=False)
    for one, other in itertools.permutations(found.runs, 2):
        change = difference(one.summary, other.summary)
        assert abs(sum(change.by_category.values()) - change.step_time_s) < 1e-12
        assert change.step_time_s == other.step_time_s - one.step_time_s
        assert change.share * one.step_time_s == pytest.approx(change.step_time_s)
    for run in found.runs:
        assert sum(category_seconds(run.summary).values()) == pytest.approx(run.step_time_s)
        assert run.difference == difference(found.runs[0].summary, run.summary)


def test_a_variant_is_what_a_run_of_its_scenario_is() -> None:
    """Each summary is that of `desim.run`, played in whatever process."""
    chosen = variants("policies.schedule=1f1b,gpipe")
    found = compare_variants("t", chosen, draw=False, processes=2)
    for variant, run in zip(chosen, found.runs, strict=True):
        alone = desim.run(variant.scenario).summary
        assert {k: v for k, v in run.summary.items() if k != "simulate_wall_s"} == {
            k: v for k, v in alone.items() if k != "simulate_wall_s"
        }


def test_json_has_the_promised_keys_and_the_first_differs_by_nothing() -> None:
    found = compare_variants("t", variants("workload.micro_batch=1,2"), draw=False).as_json()
    first, second = found["variants"]
    assert [first["set"], second["set"]] == [
        {"workload.micro_batch": 1},
        {"workload.micro_batch": 2},
    ]
    assert first["difference"]["step_time_s"] == 0
    assert set(first["difference"]["by_category"].values()) == {0}
    assert json.loads(json.dumps(found)) == found
    steps = [one["summary"]["step_time_s"] for one in found["variants"]]
    assert second["difference"]["step_time_s"] == steps[1] - steps[0]


def test_what_a_policy_does_not_use_changes_nothing_and_is_within_error() -> None:
    """One stage has no messages: how they overlap cannot matter."""
    axes = ("policies.overlap.pipeline=blocking,async",)
    found = compare_variants("t", variants(*axes, overrides=()), draw=False)
    assert found.runs[1].difference.step_time_s == 0
    assert verdict(found.runs[1], found.runs[0]) == "as fast as blocking"


def test_what_is_larger_than_the_error_is_not_within_it() -> None:
    found = compare_variants("t", variants("workload.micro_batch=1,2,4"), draw=False)
    for run in found.runs[1:]:
        effect = 100 * abs(run.step_time_s / found.runs[0].step_time_s - 1)
        assert run.error_points > 0
        assert run.within_error == (effect <= run.error_points)
        assert ("within model error" in verdict(run, found.runs[0])) == run.within_error


def test_the_largest_reason_is_named() -> None:
    """Full recomputation is more compute; a slow device is waited for."""
    more = compare_variants("t", variants("policies.recompute=none,full"), draw=False).runs
    assert "slower than none" in verdict(more[1], more[0])
    assert "mostly more compute" in verdict(more[1], more[0])
    slow = variants("disturb=[],[{device: 3, compute: 0.5}]")
    runs = compare_variants("t", slow, draw=False).runs
    assert "mostly more waiting" in verdict(runs[1], runs[0])


def test_the_frame_has_a_row_for_each(tmp_path: Path) -> None:
    jobs = [job(name=name, workload__micro_batch=1, policies__recompute=name)
            for name in ("none", "full")]  # fmt: skip
    frame = compare(jobs, processes=1)
    assert list(frame.name) == ["none", "full"]
    assert list(frame["policies.recompute"]) == ["none", "full"]
    runs = [desim.run(one).summary for one in jobs]
    assert list(frame.step_time_s) == [run["step_time_s"] for run in runs]
    peaks = [max(run["peak_memory_bytes"].values()) for run in runs]
    assert list(frame["peak_memory_bytes.max"]) == peaks
    assert {*scalars(runs[0])} <= {*frame}
    assert frame.difference_step_time_s[1] == runs[1]["step_time_s"] - runs[0]["step_time_s"]
    parts = [c for c in frame if c.startswith("difference_") and c != "difference_step_time_s"]
    assert frame.loc[1, parts].sum() == pytest.approx(frame.difference_step_time_s[1], abs=1e-12)
    assert desim.compare is compare


def test_one_scenario_is_not_enough() -> None:
    """A path or a mapping alone is one scenario, not as many as it has letters or keys."""
    for alone in ("scenarios/llama70b_2048.yaml", {"name": "a", "run": {}}):
        with pytest.raises(SpecError, match="at least 2 variants are needed to compare .got 1."):
            compare(alone)  # type: ignore[arg-type]


def test_a_scenario_that_planning_refuses_is_named() -> None:
    """What only planning finds is told of its variant, too."""
    chosen = variants("disturb=[],[{link: nosuch, bandwidth: 0.5}]")
    with pytest.raises(SpecError, match=r"variant disturb=.*nosuch"):
        compare_variants("t", chosen, draw=False)


@pytest.mark.parametrize("capacity", ["80 GiB", "1.6 GiB", "1.5 GiB", "1.3 GiB"])
def test_retuned_is_the_fastest_of_all_that_fit(capacity: str) -> None:
    """No choice of micro-batch and recomputation that fits in memory is faster."""
    overrides = (*PIPELINE, f"cluster.system.device.memory={capacity}")
    before = variants("policies.schedule=1f1b,gpipe", overrides=overrides)
    after = retune(before, ("micro_batch", "recompute"), 1, quiet, quiet)
    for old, new in zip(before, after, strict=True):
        steps = {}
        for size, level in itertools.product((1, 2, 4), ("none", "selective", "full")):
            choice = [f"workload.micro_batch={size}", f"policies.recompute={level}"]
            said = predict(desim.load(BASE, [*old.overrides, *choice]))
            limit = new.scenario.cluster.system.device.memory_bytes
            if said.device_bytes <= limit:
                steps[size, level] = said.step_time_s
        chosen = (new.setting[PATHS["micro_batch"]], new.setting[PATHS["recompute"]])
        if not steps:
            assert "none of" in new.remark
            assert new.scenario == old.scenario
            continue
        assert steps[chosen] == min(steps.values())  # type: ignore[type-var]
        assert desim.run(new.scenario).summary["fits"]
        assert new.setting["policies.schedule"] == old.setting["policies.schedule"]


def test_only_what_is_named_is_retuned() -> None:
    before = variants("policies.schedule=1f1b,gpipe")
    after = retune(before, parse_retune("recompute"), 1, quiet, quiet)
    for new in after:
        assert new.scenario.workload.micro_batch == 1
        assert set(new.setting) == {"policies.schedule", "policies.recompute"}


def test_what_retuning_chose_counts_for_the_model_error() -> None:
    """A variant at another micro-batch differs in that too; the reference's own choice does not."""
    known = families()
    chosen = retune(
        variants("policies.overlap.tensor=none,chunked"), ("micro_batch",), 1, quiet, quiet
    )
    moved = replace(chosen[1], setting=chosen[1].setting | {PATHS["micro_batch"]: 2})
    for second in (chosen[1], moved):
        run = compare_variants("t", [chosen[0], second], draw=False).runs[1]
        paths = [p for p in second.setting if second.setting[p] != chosen[0].setting[p]]
        assert run.error_points == error_points(families_of(paths, known))
        assert all(path in run.error_of for path in paths)
    assert PATHS["micro_batch"] in paths


def test_the_error_of_many_changes_is_short() -> None:
    """Two jobs that have little in common differ in more than is worth naming."""
    other = job(
        workload__micro_batch=2, workload__sequence_length=128, parallel__tensor=4,
        policies__recompute="full", policies__schedule="gpipe",
        kernels__launch="9 us", kernels__optimizer="unfused",
    )  # fmt: skip
    found = compare_variants("t", given([job(), other]), draw=False)
    (said,) = model_errors(found.runs)
    assert re.fullmatch(r"[\d.]+ points for [\w.]+, [\w.]+, [\w.]+ and \d+ more", said)
    known = {family.path: family.points for family in families()}
    points = [known.get(name, known[""]) for name in re.findall(r"[a-z_]+\.[\w.]+\w", said)]
    assert points == sorted(points, reverse=True)
    runs = [replace(found.runs[1], error_points=float(n), error_of=f"a{n}") for n in range(6)]
    assert model_errors([found.runs[0], *runs]) == [
        "5.0 points for a5", "4.0 points for a4", "3.0 points for a3", "less for others",
    ]  # fmt: skip


def test_what_cannot_be_retuned_is_refused() -> None:
    with pytest.raises(SpecError, match="did you mean 'micro_batch'"):
        parse_retune("micro_batches")
    with pytest.raises(SpecError, match="is varied"):
        require_free(("recompute",), ["policies.recompute"])


def test_the_same_ranks_are_drawn() -> None:
    """The first rank of every stage of the first variant, and devices that any of them slows."""
    one = job(parallel__pipeline=4, parallel__tensor=2)
    slow = job(parallel__pipeline=2, disturb=[{"device": 5, "compute": 0.5}])
    assert shown_ranks([one, slow], 8) == [0, 2, 4, 5, 6]
    assert shown_ranks([one, slow], 3) == [0, 5, 6]
    assert shown_ranks([one], 2) == [0, 6]
    assert shown_ranks([one], 1) == [0]


def test_a_record_survives_the_way_between_processes() -> None:
    """Cut down to some classes it pickles, and these are what they were."""
    import pickle

    record = desim.run(job(parallel__pipeline=4, parallel__tensor=2)).record
    sent = pickle.loads(pickle.dumps(carried(record, [1, 2])))
    assert [c.representative for c in sent.classes] == [
        record.classes[number].representative for number in (1, 2)
    ]
    for new, old in enumerate((1, 2)):
        assert (sent.spans_of(new).end_ps == record.spans_of(old).end_ps).all()
        assert sent.memory[new].peak_bytes == record.memory[old].peak_bytes
    kept = {(f.source_class, f.target_class) for f in sent.flows}
    assert kept == {(0, 1), (1, 0)}
    inside = [f for f in record.flows if {f.source_class, f.target_class} <= {1, 2}]
    assert len(sent.flows) == len(inside)


def test_files_of_a_comparison(tmp_path: Path) -> None:
    sources = [ROOT / "scenarios" / "dlrm_a_128.yaml", {**BASE, "name": "small"}]
    found = compare_variants("two", given(sources))
    written = found.write(tmp_path / "new" / "folder")
    assert [path.name for path in written] == [
        "compare.json", "trace.json.gz", "compare.html",
        "variant_1.resolved.yaml", "variant_2.resolved.yaml",
    ]  # fmt: skip
    for file, run in zip(written[3:], found.runs, strict=True):
        assert desim.run(file).summary["step_time_s"] == run.step_time_s
    assert sorted(written) == sorted((tmp_path / "new" / "folder").iterdir())
    assert json.loads(written[0].read_text()) == found.as_json()
    text = found.render()
    assert max(map(len, text.splitlines())) <= 100
    assert "MFU" in text
