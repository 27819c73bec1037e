"""Which device of the catalogue a machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desim.calibrate.bench import Hardware
    from desim.spec.hardware import Device

_MEMORY_DIFFERS = 0.06  # what driver and ECC take of what the data sheet or nvidia-smi says


def recognise(found: Hardware, devices: Mapping[str, Device]) -> str:
    """Return the one catalogue name whose model, SMs and memory are those of the machine.

    The model is a word of the driver's name (`NVIDIA H200` is H200-SXM-141GB). Raises SpecError
    where none or several match: their files must then be named.
    """
    words = set(found.name.upper().replace("-", " ").split())
    alike = [
        name
        for name, device in devices.items()
        if device.sms == found.sms
        and abs(device.memory_bytes / found.memory_bytes - 1) <= _MEMORY_DIFFERS
        and device.name.upper().split("-")[0] in words
    ]
    form = [name for name in alike if ("PCIE" in words) == ("pcie" in name)]
    if len(form) == 1:
        return form[0]
    said = f"{found.name}, {found.sms} SMs, {found.memory_bytes / 2**30:.1f} GiB"
    rule = f"{'several devices' if form else 'no device'} of the catalogue match"
    hint = f"name one, or the path of a device file: {', '.join(form or devices)}"
    raise SpecError([Mistake("--device", rule, said, hint)])
