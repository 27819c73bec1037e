"""A device for kernel tests, in round numbers."""

from __future__ import annotations

import pytest

from desim.spec.hardware import Device


@pytest.fixture
def device() -> Device:
    """Return a device of 100 SMs, 400 TFLOP/s and 2 TB/s with half of each reached."""
    return Device.model_validate(
        {
            "name": "round",
            "source": "test",
            "sms": 100,
            "memory": "80 GB",
            "memory_bandwidth": "2 TB/s",
            "peak": {"bf16": "400 TFLOPS", "fp32": "20 TFLOPS"},
            "power": "400 W",
            "nvlink": "300 GB/s",
            "pcie": "32 GB/s",
            "kernels": {
                "gemm_efficiency": {"bf16": 0.5},
                "memory_efficiency": 0.5,
                "gemm_tile": [128, 256],
                "floor": "2 us",
                "attention": {
                    "flash1": {"forward": 0.3, "backward": 0.2},
                    "flash2": {"forward": 0.5, "backward": 0.4},
                },
            },
            "communication": {"nvlink_sms": 10, "network_sms": 10, "beside_compute": 0.9},
        }
    )
