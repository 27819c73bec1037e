"""The kernel model: dispatch, tables, notes; the software stack."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desim.errors import SpecError
from desim.kernels.model import KernelModel
from desim.kernels.roofline import peak_flops_per_s
from desim.kernels.software import stack
from desim.kernels.time import KernelTime
from desim.models.op import Op
from desim.spec.hardware import Device
from desim.spec.policy import Kernels

NORM = Op("norm", "norm", "bf16", 1e6, 5e8, 5e8)


def test_streaming_kernel(device: Device) -> None:
    """1 GB at half of 2 TB/s takes a millisecond, and the floor."""
    assert KernelModel(device, Kernels()).time(NORM).alone_s == pytest.approx(1e-3 + 2e-6)


def test_table_takes_over(device: Device) -> None:
    measured = KernelTime(1.0, 0.0, 0.0, "measured")
    model = KernelModel(device, Kernels(), lambda op: measured if op.kind == "norm" else None)
    found = model.time(NORM)
    assert found.source == "measured"
    assert found.alone_s == pytest.approx(measured.alone_s)
    assert found.memory_s > found.compute_s, "the model divides it"
    other = Op("copy", "copy", "bf16", 0.0, 1e6, 1e6)
    assert model.time(other).source == "modelled"


def test_note_on_a_replaced_backend(device: Device) -> None:
    assert KernelModel(device, Kernels(attention="flash2")).notes == ()
    (note,) = KernelModel(device, Kernels(attention="flash3")).notes
    assert "flash2" in note
    assert KernelModel(device, Kernels(attention="unfused")).notes == ()


def test_format_without_a_peak_is_refused(device: Device) -> None:
    with pytest.raises(SpecError, match="no peak"):
        peak_flops_per_s(device, "fp8")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gain=st.floats(1.0, 10.0), size=st.floats(1.0, 1e12))
def test_more_bandwidth_is_never_slower(device: Device, gain: float, size: float) -> None:
    op = Op("copy", "copy", "bf16", size, size, size)
    wider = device.model_copy(update={"memory_bytes_per_s": device.memory_bytes_per_s * gain})
    slow, fast = KernelModel(device, Kernels()), KernelModel(wider, Kernels())
    assert fast.time(op).alone_s <= slow.time(op).alone_s


def test_software_stack() -> None:
    assert stack(Kernels()).launch_s > 0
    assert stack(Kernels(launch="1 us")).launch_s == pytest.approx(1e-6)  # type: ignore[call-arg]
    assert stack(Kernels(cuda_graphs=True)).graphs
    assert stack(Kernels(fusion="compile")).launch_s < stack(Kernels(fusion="eager")).launch_s
