"""Kernels of the optimizer step."""

from __future__ import annotations

import pytest

from desim.models.op import Op
from desim.models.optimizer import (
    bytes_per_parameter,
    clip_op,
    gradient_ops,
    optimizer_ops,
    zero_gradients_op,
)
from desim.spec.workload import Precision


def traffic(ops: tuple[Op, ...]) -> float:
    return sum(op.read_bytes + op.write_bytes for op in ops)


def test_adam_traffic() -> None:
    """Reads gradient, parameter and two moments (16 B), writes three of them (12 B).

    A second kernel makes the compute copy (4 + 2 B).
    """
    update, copy = optimizer_ops(1e9, 8, Precision())
    assert update.read_bytes == pytest.approx(16 * 1e9 / 8)
    assert update.write_bytes == pytest.approx(12 * 1e9 / 8)
    assert traffic((copy,)) == pytest.approx(6 * 1e9 / 8)


def test_fully_sharded_adam_makes_no_copy() -> None:
    (op,) = optimizer_ops(1e9, 8, Precision(gradients="bf16"), zero=3)
    assert op.read_bytes == pytest.approx(16 * 1e9 / 8)
    assert op.write_bytes == pytest.approx(12 * 1e9 / 8)


def test_adam_of_pytorch_calls_moves_eighty_bytes() -> None:
    """Two moments scaled (2 x 8) and added to (2 x 12), a denominator (3 x 8), an update (16)."""
    ops = optimizer_ops(1.0, 1, Precision(), zero=3, fused=False)
    assert len(ops) == 8
    assert traffic(ops) == 80


@pytest.mark.parametrize(
    ("optimizer", "update", "whole", "sharded"),
    [
        # bytes moved by an update of bf16 parameters with fp32 gradients; bytes kept, zero 0 and 3
        ("adam_fp32", 34, 18, 16),
        ("adam_bf16_states", 22, 14, 12),
        ("adam_fp8_states", 18, 12, 10),
        ("adam_bf16", 16, 10, 8),
        ("lion_fp32", 26, 14, 12),
        ("sgd_fp32", 18, 10, 8),
    ],
)
def test_bytes_of_optimizers(optimizer: str, update: float, whole: float, sharded: float) -> None:
    precision = Precision(optimizer=optimizer)  # type: ignore[arg-type]
    assert traffic(optimizer_ops(1.0, 1, precision)) == update
    assert sum(bytes_per_parameter(precision, 0, 1).values()) == whole
    assert sum(bytes_per_parameter(precision, 3, 4).values()) == sharded / 4


def test_gradients_are_read_for_the_norm_clipped_and_cleared() -> None:
    (norm,) = gradient_ops(1000.0, Precision(), zero=1, clipping=True)
    assert (norm.read_bytes, norm.write_bytes) == (4000, 0)
    assert traffic((clip_op(1000.0, Precision(), zero=1),)) == 8000
    assert zero_gradients_op(1000.0, Precision()).write_bytes == 4000
    assert not gradient_ops(1000.0, Precision(), zero=1, clipping=False)


def test_narrow_gradients_are_copied_to_fp32_once() -> None:
    """Norm, clipping and update then read 4 B; an optimizer with narrow states takes them as is."""
    copy, norm = gradient_ops(1000.0, Precision(gradients="bf16"), zero=1, clipping=True)
    assert (copy.read_bytes, copy.write_bytes) == (2000, 4000)
    assert norm.read_bytes == 4000
    aware = Precision(gradients="bf16", optimizer="adam_bf16_states")
    (norm,) = gradient_ops(1000.0, aware, zero=1, clipping=True)
    assert norm.read_bytes == 2000


def test_half_precision_searches_for_infinities() -> None:
    names = [op.name for op in gradient_ops(1.0, Precision(compute="fp16"), 0, clipping=True)]
    assert names == ["unscale", "grad_norm"]
