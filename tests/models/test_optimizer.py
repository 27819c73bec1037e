"""Kernels of the optimizer step."""

from __future__ import annotations

import pytest

from desim.models.optimizer import (
    bytes_per_parameter,
    grad_norm_op,
    optimizer_ops,
    zero_gradients_op,
)
from desim.spec.workload import Precision


def test_adam_traffic() -> None:
    """Reads gradient, parameter and two moments (16 B), writes three of them and a copy (14 B)."""
    (op,) = optimizer_ops(1e9, 8, Precision())
    assert op.read_bytes == pytest.approx(16 * 1e9 / 8)
    assert op.write_bytes == pytest.approx(14 * 1e9 / 8)


def test_fully_sharded_adam_makes_no_copy() -> None:
    (op,) = optimizer_ops(1e9, 8, Precision(gradients="bf16"), zero=3)
    assert op.read_bytes == pytest.approx(16 * 1e9 / 8)
    assert op.write_bytes == pytest.approx(12 * 1e9 / 8)


@pytest.mark.parametrize(
    ("optimizer", "update", "whole", "sharded"),
    [
        # bytes moved by an update of bf16 parameters with fp32 gradients; bytes kept, zero 0 and 3
        ("adam_fp32", 30, 18, 16),
        ("adam_bf16_states", 22, 14, 12),
        ("adam_fp8_states", 18, 12, 10),
        ("adam_bf16", 16, 10, 8),
        ("lion_fp32", 22, 14, 12),
        ("sgd_fp32", 14, 10, 8),
    ],
)
def test_bytes_of_optimizers(optimizer: str, update: float, whole: float, sharded: float) -> None:
    precision = Precision(optimizer=optimizer)  # type: ignore[arg-type]
    (op,) = optimizer_ops(1.0, 1, precision)
    assert op.read_bytes + op.write_bytes == update
    assert sum(bytes_per_parameter(precision, 0, 1).values()) == whole
    assert sum(bytes_per_parameter(precision, 3, 4).values()) == sharded / 4


def test_gradients_are_read_for_the_norm_and_cleared() -> None:
    assert grad_norm_op(1000.0, Precision(gradients="bf16")).read_bytes == 2000
    assert zero_gradients_op(1000.0, Precision()).write_bytes == 4000
