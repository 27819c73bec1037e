"""Rules of number formats: what a low-precision recipe needs, by name and with its reason."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Load, Refuse

RECIPE = "workload.precision.recipe"
A100 = "cluster.system=dgx_a100_80_hdr200"


@pytest.mark.parametrize(
    ("changes", "path", "rule", "hint"),
    [
        ([f"{RECIPE}=delayed", A100], RECIPE, "does not compute in fp8", "none"),
        ([f"{RECIPE}=nvfp4"], RECIPE, "H100-SXM-80GB does not compute in fp4", "none"),
        ([f"{RECIPE}=mxfp8"], RECIPE, "no block scales in its GEMMs", "blockwise"),
        ([f"{RECIPE}=rowwise"], RECIPE, "no recipe with scales per row", "compile"),
        (
            [f"{RECIPE}=delayed", "workload.precision.compute=fp8"],
            "workload.precision.compute",
            "converts from 16 bits",
            "bf16",
        ),
        (
            [f"{RECIPE}=blockwise", "workload.model.ffn=11024"],
            RECIPE,
            "ffn / tensor in multiples of 128: 5512 leaves 8",
            "",
        ),
        (
            [f"{RECIPE}=delayed", "workload.sequence_length=4104"],
            RECIPE,
            "multiples of 16: 2052 leaves 4",
            "",
        ),
        (
            [
                f"{RECIPE}=rowwise",
                "kernels.fusion=compile",
                "workload.precision.low_precision_parameters=true",
            ],
            "workload.precision.low_precision_parameters",
            "one scale per tensor, not rowwise",
            "tensorwise",
        ),
    ],
)
def test_a_broken_rule(refuse: Refuse, changes: list[str], path: str, rule: str, hint: str) -> None:
    mistakes = [m for m in refuse(*changes) if m.path == path]
    assert any(rule in m.rule and hint in m.hint for m in mistakes), [str(m) for m in mistakes]


def test_settings_without_effect_are_named(load: Load) -> None:
    loaded = load("workload.precision.low_precision_parameters=true")
    assert any("no effect without a recipe" in note for note in loaded.notes)
    assert load(f"{RECIPE}=delayed", "workload.precision.reduce=bf16").notes == ()


def test_a_recommendation_model_has_no_recipe(refuse: Refuse) -> None:
    changes = ["workload.model=dlrm_a", f"{RECIPE}=tensorwise", "workload.precision.reduce=bf16"]
    assert {RECIPE, "workload.precision.reduce"} <= {m.path for m in refuse(*changes)}
