"""Kernels of the optimizer step."""

from __future__ import annotations

import pytest

from desim.models.optimizer import (
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


def test_gradients_are_read_for_the_norm_and_cleared() -> None:
    assert grad_norm_op(1000.0, Precision(gradients="bf16")).read_bytes == 2000
    assert zero_gradients_op(1000.0, Precision()).write_bytes == 4000
