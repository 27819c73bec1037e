"""GEMM times: closed forms for whole waves, and orders that must hold."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desim.kernels.gemm import alignment_factor, gemm_time
from desim.kernels.roofline import gemm_shape
from desim.models.op import Op
from desim.spec.hardware import Device, GemmShape

SIZE = st.integers(1, 20000)
QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def gemm(m: int, n: int, k: int, batch: int = 1, variant: str = "forward") -> Op:
    read, write = 2.0 * batch * (m * k + k * n), 2.0 * batch * m * n
    shape = (m, n, k, batch)
    return Op("gemm", "gemm", "bf16", 2.0 * batch * m * n * k, read, write, shape, variant)


def test_whole_wave_of_the_device_tile(device: Device) -> None:
    """100 tiles of 128 x 256 on 100 SMs cost k = 8192 and a prologue of 128 at the stated share."""
    op = gemm(1280, 2560, 8192)
    whole = op.flops / (400e12 * 0.5) * (1 + 128 / 8192)
    assert gemm_time(op, device).compute_s == pytest.approx(whole)


def with_shape(device: Device, **constants: float) -> Device:
    kernels = device.kernels.model_copy(update={"gemm_shape": {"bf16": GemmShape(**constants)}})
    return device.model_copy(update={"kernels": kernels})


def test_part_of_the_last_wave_is_lost(device: Device) -> None:
    """150 tiles on 100 SMs take 1.5 waves and `wave_loss` of the half that is idle."""
    seconds = [
        gemm_time(gemm(1920, 2560, 8192), with_shape(device, wave_loss=loss, prologue_k=0.0))
        for loss in (0.0, 0.2)
    ]
    assert seconds[1].compute_s / seconds[0].compute_s == pytest.approx(1.6 / 1.5)


def test_siblings_fill_each_others_waves(device: Device) -> None:
    """Two GEMMs of 150 tiles on 100 SMs are three whole waves: none of the rate is lost."""
    lossy = with_shape(device, wave_loss=1.0, prologue_k=0.0)
    alone = gemm(1920, 2560, 8192)
    whole = alone.flops / (400e12 * 0.5)
    assert gemm_time(replace(alone, siblings=2), lossy).compute_s == pytest.approx(whole)
    assert gemm_time(alone, lossy).compute_s > 1.05 * whole


def test_weight_gradients_in_fp32_run_at_their_own_rate(device: Device) -> None:
    kernels = device.kernels.model_copy(update={"gemm_accumulate": 0.8})
    slower = device.model_copy(update={"kernels": kernels})
    op = gemm(1280, 2560, 8192, variant="wgrad")
    adds = replace(op, write_bytes=2 * op.write_bytes)
    assert gemm_time(op, slower) == gemm_time(op, device)
    ratio = gemm_time(adds, slower).compute_s / gemm_time(adds, device).compute_s
    assert ratio == pytest.approx(1 / 0.8)


def test_unaligned_batches_run_on_cuda_cores(device: Device) -> None:
    """A head dimension of 108 (216 bytes) cannot use Tensor Cores; of 104 and of 112 it can."""
    seconds = {
        dim: gemm_time(gemm(2048, 2048, dim, batch=64), device).compute_s for dim in (104, 108, 112)
    }
    work = 2.0 * 64 * 2048 * 2048 * 108
    assert seconds[108] >= work / (20e12 * 0.5)
    assert max(seconds[104], seconds[112]) < seconds[108] / 5


@QUIET
@given(m=SIZE, n=SIZE, k=SIZE)
def test_time_never_falls_with_m(device: Device, m: int, n: int, k: int) -> None:
    smooth = with_shape(device, wave_loss=0.5, prologue_k=200.0, half_rate_intensity=10.0)
    assert gemm_time(gemm(m, n, k), smooth).alone_s <= gemm_time(gemm(m + 64, n, k), smooth).alone_s


def test_double_peak_halves_what_is_bound_by_math(device: Device) -> None:
    faster = device.model_copy(update={"peak_flops_per_s": {"bf16": 800e12}})
    op = gemm(8192, 8192, 8192)
    ratio = gemm_time(op, device).compute_s / gemm_time(op, faster).compute_s
    assert ratio == pytest.approx(2.0)


def test_one_tile_more_starts_a_wave(device: Device) -> None:
    """A 101st tile costs more than the hundredth part; the library limits it to under a wave."""
    whole = gemm_time(gemm(1280, 2560, 8192), device).compute_s
    more = gemm_time(gemm(1281, 2560, 8192), device).compute_s
    assert 1.01 * whole < more <= 2 * whole


def test_memory_bound_product(device: Device) -> None:
    """A row times a matrix reads the matrix once."""
    op = gemm(1, 16384, 16384)
    time = gemm_time(op, device)
    assert time.alone_s == pytest.approx((op.read_bytes + op.write_bytes) / 1e12 + 2e-6, rel=0.05)


@QUIET
@given(m=SIZE, n=SIZE, k=SIZE, gain=st.floats(1.0, 4.0))
def test_more_of_a_resource_is_never_slower(
    device: Device, m: int, n: int, k: int, gain: float
) -> None:
    op = gemm(m, n, k)
    before = gemm_time(op, device).alone_s
    peaks = {name: value * gain for name, value in device.peak_flops_per_s.items()}
    faster = device.model_copy(update={"peak_flops_per_s": peaks})
    assert gemm_time(op, faster).alone_s <= before * (1 + 1e-12)
    wider = device.model_copy(update={"memory_bytes_per_s": device.memory_bytes_per_s * gain})
    assert gemm_time(op, wider).alone_s <= before * (1 + 1e-12)


@QUIET
@given(m=SIZE, n=SIZE, k=SIZE)
def test_never_above_the_stated_share(device: Device, m: int, n: int, k: int) -> None:
    op = gemm(m, n, k)
    assert gemm_time(op, device).compute_s >= op.flops / (400e12 * 0.5)


@QUIET
@given(
    m=st.integers(512, 8192),
    n=st.integers(512, 8192),
    k=st.integers(512, 8192),
    variant=st.sampled_from(["forward", "dgrad", "wgrad"]),
)
def test_padding_to_64_costs_no_more_than_its_work(
    device: Device, m: int, n: int, k: int, variant: str
) -> None:
    """Contiguous dimensions rounded up to 64 fill the same tiles at a rate at least as high.

    The padded product reads, writes and multiplies more, by the padding's share at most. Of a k
    that is split it is the share of a part, since parts are whole.
    """
    padded = [-(-size // 64) * 64 for size in (m, n, k)]
    unpadded = gemm_time(gemm(m, n, k, variant=variant), device)
    aligned = gemm_time(gemm(*padded, variant=variant), device)
    parts = [ceil(padded[2] / split) / ceil(k / split) for split in range(1, k // 512 + 1)]
    growth = (padded[0] / m) * (padded[1] / n) * max(parts)
    floor_s = device.kernels.floor_s
    assert aligned.alone_s - floor_s <= (unpadded.alone_s - floor_s) * growth * (1 + 1e-9)


def test_alignment_looks_at_contiguous_dimensions() -> None:
    assert alignment_factor(gemm(1001, 1024, 1024)) == 1.0
    assert alignment_factor(gemm(1001, 1024, 1024, variant="wgrad")) < 1.0
    assert alignment_factor(gemm(1024, 1024, 1001, variant="wgrad")) == 1.0
    shares = [alignment_factor(gemm(1024, 1024 + extra, 1024)) for extra in (0, 32, 16, 8, 4, 2, 1)]
    assert shares == sorted(shares, reverse=True)


def test_batch_fills_the_device(device: Device) -> None:
    """One small product leaves SMs idle; a hundred of them take far less than a hundred times."""
    one = gemm_time(gemm(128, 128, 256), device).compute_s
    many = gemm_time(gemm(128, 128, 256, batch=100), device).compute_s
    assert many < 20 * one


def test_the_prologue_of_a_slower_format_takes_as_long(device: Device) -> None:
    """fp32 has a twentieth of the rate: a prologue of 200 steps of k in bf16 is one of 10."""
    device = with_shape(device, prologue_k=200, half_rate_intensity=40)
    shape = gemm_shape(device, "fp32")
    assert shape.prologue_k == pytest.approx(10)
    assert shape.half_rate_intensity == pytest.approx(2)
    assert shape.wave_loss == gemm_shape(device, "bf16").wave_loss
