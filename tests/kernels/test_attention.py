"""Fused attention times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from ruamel.yaml import YAML

from desim.calibrate.attention import attention_rows
from desim.errors import SpecError
from desim.kernels.attention import (
    attention_time,
    block_factor,
    choose_backend,
    head_dim_factor,
    is_causal,
    padding_factor,
    wave_factor,
)
from desim.models.op import Op, Packing
from desim.spec.hardware import AttentionBackend, AttentionEfficiency, Device

ROOT = Path(__file__).parents[2]


def catalogue_device(name: str) -> Device:
    text = (ROOT / "hardware" / "devices" / f"{name}.yaml").read_text()
    return Device.model_validate(YAML(typ="safe").load(text))


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


def test_rates_at_other_head_dimensions_are_those_of_flash_attention_3() -> None:
    """Shah et al. 2024, figure 5, forward, causal, 16k: 497, 648 and 756 TFLOP/s."""
    device = catalogue_device("h100_sxm_80gb")
    rates = {}
    for dim in (64, 128, 256):
        op = attention(16384, dim, heads=2048 // dim)
        rates[dim] = op.flops / attention_time(op, device, "flash3").compute_s
    assert rates[64] / rates[128] == pytest.approx(497 / 648, rel=0.05)
    assert rates[256] / rates[128] == pytest.approx(756 / 648, rel=0.05)


@pytest.mark.parametrize("variant", ["forward", "backward"])
def test_a_small_head_dimension_costs_slow_kernels_less(variant: str) -> None:
    """The visible exponentials take the same time, or less, of a longer one."""
    device = catalogue_device("a100_sxm_80gb")
    peak = device.peak_flops_per_s["bf16"]
    op = attention(8192, 64, variant=variant)
    factors = [head_dim_factor(op, device, peak, share) for share in (0.2, 0.4, 0.6, 0.8, 0.99)]
    assert factors[:3] == sorted(factors[:3], reverse=True)
    assert all(0.5 < factor <= 1.0 for factor in factors)
    wide = attention(8192, 128, variant=variant)
    assert head_dim_factor(wide, device, peak, 0.5) == 1.0
    assert head_dim_factor(op, device, peak, 0.999999) == pytest.approx(1.0, abs=1e-5)


def test_triton_lies_behind_flash_attention_2_by_what_its_paper_says() -> None:
    """Dao 2023, section 4.1: 1.3 to 1.5 times slower forward, about 2 times backward."""
    for path in (ROOT / "hardware" / "devices").glob("*.yaml"):
        shares = catalogue_device(path.stem).kernels.attention
        if "triton" in shares:
            assert 1.3 < shares["flash2"].forward / shares["triton"].forward < 1.5
            assert shares["flash2"].backward / shares["triton"].backward == pytest.approx(2, 0.05)


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


def test_narrow_values_cost_the_width_of_the_keys(device: Device) -> None:
    """Keys of 192 and values of 128: 320/384 of the counted work at the rate of 128."""
    wide = attention(8192, 192)
    narrow = replace(wide, flops=wide.flops * 320 / 384)
    assert padding_factor(wide) == 1.0
    assert padding_factor(narrow) == pytest.approx(320 / 384)
    per_flop = attention_time(attention(8192), device, "flash2").compute_s / attention(8192).flops
    seconds = attention_time(narrow, device, "flash2").compute_s
    assert seconds == pytest.approx(per_flop * wide.flops)


def test_few_heads_take_as_long_as_the_longest_block(device: Device) -> None:
    """Below one wave more heads are free; far above it the tail is all that is lost."""
    shares = AttentionEfficiency(forward=0.5, backward=0.4, forward_tail=0.5, forward_longest=4.0)
    few = wave_factor(attention(1024, heads=2), device, shares)
    more = wave_factor(attention(1024, heads=8), device, shares)
    assert more / few == pytest.approx(4.0)
    waves = 64 * 65536 / 128 / 100
    assert wave_factor(attention(65536), device, shares) == pytest.approx(waves / (waves + 0.5))


@pytest.mark.parametrize(
    ("name", "file", "backend", "limit"),
    [
        ("A100-80GB-PCIe", "a100_pcie_80gb", "flash2", 0.06),
        ("B200-SXM", "b200_sxm_180gb", "cudnn", 0.1),
    ],
)
def test_device_files_hold_what_was_measured(
    name: str, file: str, backend: AttentionBackend, limit: float
) -> None:
    text = (ROOT / "hardware" / "devices" / f"{file}.yaml").read_text()
    device = Device.model_validate(YAML(typ="safe").load(text))
    for variant in ("forward", "backward"):
        rows = attention_rows(ROOT / "validation" / "op_efficiency.csv", name, variant)
        assert len(rows) >= 12
        errors = [abs(attention_time(r.op, device, backend).alone_s / r.seconds - 1) for r in rows]
        assert median(errors) < limit
        assert max(errors) < 0.3


def test_missing_backend_falls_back_to_an_older_one(device: Device) -> None:
    assert choose_backend(device, "flash3") == "flash2"
    assert choose_backend(device, "cudnn") == "flash2"
    kernels = device.kernels.model_copy(update={"attention": {}})
    bare = device.model_copy(update={"kernels": kernels})
    with pytest.raises(SpecError, match="neither this backend"):
        choose_backend(bare, "flash2")


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_of_documents_are_those_of_each(causal: bool) -> None:
    """Against counting blocks of 128 over documents of many lengths."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 4000, 20_000).astype(float)
    tokens = int(lengths.sum())
    density = float((lengths**2).sum()) / tokens**2
    packing = Packing(density, len(lengths), float(lengths.max()) / tokens)
    op = attention(tokens, causal=causal)
    op = replace(op, flops=op.flops * density, packing=packing)
    assert is_causal(op) == causal
    rows = np.ceil(lengths / 128)
    blocks = rows * (rows + 1) / 2 if causal else rows**2
    counted = (lengths**2).sum() / (2 if causal else 1) / (blocks.sum() * 128**2)
    assert block_factor(op) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("causal", [True, False])
def test_a_document_as_long_as_its_sequence_has_whole_blocks(causal: bool) -> None:
    """The blocks are those of a sequence; half of such sequences take half of the rest."""
    op = attention(4096, causal=causal)
    one = replace(op, packing=Packing(1.0, 1, 1.0, whole=1.0))
    assert block_factor(one) == pytest.approx(block_factor(op), rel=1e-12)
    cut, mixed = (replace(op, packing=Packing(1.0, 1, 1.0, whole=w)) for w in (0.0, 0.5))
    mean = (1 / block_factor(one) + 1 / block_factor(cut)) / 2
    assert 1 / block_factor(mixed) == pytest.approx(mean, rel=1e-12)


def test_one_long_document_is_waited_for(device: Device) -> None:
    """Documents alike are a batch; the tail grows with the longest of others over their mean."""
    shares = AttentionEfficiency(forward=0.5, backward=0.4)
    op = attention(16384, heads=64)
    alike = replace(op, packing=Packing(1 / 16, 16, 1 / 16))
    batch = replace(op, shape=(16, 64, 64, 1024, 1024, 128))
    even, tail = wave_factor(alike, device, shares), 1 / wave_factor(alike, device, shares) - 1
    assert even == pytest.approx(wave_factor(batch, device, shares), rel=0.01)
    uneven = replace(op, packing=Packing(1 / 16, 16, 1 / 4))
    assert wave_factor(uneven, device, shares) == pytest.approx(1 / (1 + 4 * tail))
