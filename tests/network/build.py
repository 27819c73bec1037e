"""Systems for the network tests."""

from __future__ import annotations

from desim.spec.hardware import (
    AttentionEfficiency,
    Device,
    DeviceCommunication,
    DeviceKernels,
    Fabric,
    System,
)


def device(**changes: object) -> Device:
    """Build a device like an H100, with the fields in `changes` replaced."""
    fields: dict[str, object] = {
        "name": "gpu",
        "source": "test",
        "sms": 132,
        "memory": "80 GiB",
        "memory_bandwidth": "3.35 TB/s",
        "peak": {"bf16": "1000 TFLOPS"},
        "power": "700 W",
        "nvlink": "450 GB/s",
        "pcie": "64 GB/s",
        "kernels": DeviceKernels(
            gemm_efficiency={"bf16": 0.8},
            memory_efficiency=0.9,
            gemm_tile=(128, 256),
            floor="2 us",
            attention={"flash2": AttentionEfficiency(forward=0.5, backward=0.4)},
        ),
        "communication": DeviceCommunication(
            nvlink_sms=16, network_sms=8, nvls_sms=6, beside_compute=0.9
        ),
    }
    return Device(**{**fields, **changes})


def fabric(**changes: object) -> Fabric:
    """Build a rail fabric of 400 Gbps NICs and radix 64, with fields replaced."""
    fields: dict[str, object] = {
        "name": "fabric",
        "source": "test",
        "topology": "rail",
        "nic": "400 Gbps",
        "efficiency": 1.0,
        "radix": 64,
        "latency": "5 us",
        "hop_latency": "1 us",
    }
    return Fabric(**{**fields, **changes})


def system(**changes: object) -> System:
    """Build a system of 8-device nodes with NVSwitch, with fields replaced."""
    fields: dict[str, object] = {
        "name": "system",
        "source": "test",
        "device": device(),
        "fabric": fabric(),
        "devices_per_node": 8,
        "nics_per_node": 8,
        "nvlink_domain": 8,
        "intra_node": "nvswitch",
        "nvls": True,
        "nvlink_latency": "2 us",
        "nvlink_efficiency": 1.0,
        "nvls_efficiency": 1.0,
        "host_memory": "2 TiB",
        "host_memory_bandwidth": "300 GB/s",
    }
    return System(**{**fields, **changes})
