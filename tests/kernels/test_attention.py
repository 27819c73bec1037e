"""Fused attention times."""

from __future__ import annotations

import pytest

from desim.errors import SpecError
from desim.kernels.attention import attention_time, block_factor, choose_backend, is_causal
from desim.models.op import Op
from desim.spec.hardware import Device


def attention(
    length: int, dim: int = 128, heads: int = 64, causal: bool = True, variant: str = "forward"
) -> Op:
    flops = {"forward": 4.0, "backward": 10.0}[variant] * heads * length**2 * dim
    shape = (1, heads, heads, length, length, dim)
    size = 2.0 * heads * length * dim
    flops *= 0.5 if causal else 1.0
    return Op("attention", "attention", "bf16", flops, 3 * size, size, shape, variant)


def test_long_sequences_reach_the_stated_share(device: Device) -> None:
    for variant, share in (("forward", 0.5), ("backward", 0.4)):
        op = attention(65536, variant=variant)
        reached = op.flops / attention_time(op, device, "flash2").compute_s / 400e12
        assert reached == pytest.approx(share, rel=0.01)


def test_rate_falls_with_sequence_and_head_dimension(device: Device) -> None:
    def rate(op: Op) -> float:
        return op.flops / attention_time(op, device, "flash2").compute_s

    lengths = [rate(attention(length)) for length in (512, 1024, 4096, 16384)]
    assert lengths == sorted(lengths)
    dims = [rate(attention(8192, dim)) for dim in (32, 64, 128, 256)]
    assert dims == sorted(dims)


def test_causal_saves_at_most_half(device: Device) -> None:
    for length in (256, 1024, 8192):
        masked = attention_time(attention(length), device, "flash2").compute_s
        full = attention_time(attention(length, causal=False), device, "flash2").compute_s
        assert full / 2 <= masked
    assert is_causal(attention(1024))
    assert not is_causal(attention(1024, causal=False))


def test_block_factor_closed_form() -> None:
    """n blocks in a row: n(n+1)/2 of n^2 are computed for half of the square."""
    assert block_factor(attention(512)) == pytest.approx(4**2 / (4 * 5))
    assert block_factor(attention(512, causal=False)) == 1.0


def test_missing_backend_falls_back_to_an_older_one(device: Device) -> None:
    assert choose_backend(device, "flash3") == "flash2"
    assert choose_backend(device, "cudnn") == "flash2"
    kernels = device.kernels.model_copy(update={"attention": {}})
    bare = device.model_copy(update={"kernels": kernels})
    with pytest.raises(SpecError, match="neither this backend"):
        choose_backend(bare, "flash2")
