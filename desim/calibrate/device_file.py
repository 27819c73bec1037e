"""Devices: read by name or path, written as files that a scenario can name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from desim.errors import SpecError
from desim.export.files import write_aside
from desim.spec.catalogue import Catalogue, list_names, roots_from
from desim.spec.dump import dump_mapping
from desim.spec.explain import explain
from desim.spec.hardware import Device
from desim.spec.nodes import from_plain, plain

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_device(name: str) -> Device:
    """Return a device of the catalogue or of a file; raises SpecError for what is wrong with it."""
    catalogue = Catalogue(roots_from([Path.cwd()]))
    node = catalogue.expand(from_plain(name), "devices", ("device",))
    if catalogue.mistakes:
        raise SpecError(catalogue.mistakes)
    try:
        return Device.model_validate(plain(node))
    except ValidationError as error:
        raise SpecError(explain(error.errors(include_url=False), node)) from None


def load_devices() -> dict[str, Device]:
    """Return every device of the catalogue by its file's name."""
    return {name: load_device(name) for name in list_names("devices")}


def device_yaml(device: Device, comments: Sequence[str]) -> str:
    """Return the file of a device, beginning with `comments`."""
    data = device.model_dump(mode="json", by_alias=True, exclude_none=True)
    head = [f"# {line}".rstrip() for line in comments]
    return "\n".join([*head, *dump_mapping(data)]) + "\n"


def write_device(device: Device, comments: Sequence[str], file: Path) -> None:
    """Write the file of a device, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_aside(file, device_yaml(device, comments).encode())
