"""A small valid scenario, and how tests spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from desim.errors import Mistake, SpecError
from desim.spec.load import Loaded, load_scenario

BASE = """\
name: small
workload:
  model: llama2_7b
  sequence_length: 4096
  global_batch: 64
  micro_batch: 1
cluster:
  system: dgx_h100_ndr400
  devices: 64
parallel: {tensor: 2, pipeline: 4}
"""

Refuse = Callable[..., list[Mistake]]
Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write the text (the base where none is given) to a file and load it."""

    def call(*overrides: str, text: str = BASE) -> Loaded:
        file = tmp_path / "small.yaml"
        file.write_text(text, encoding="utf-8")
        return load_scenario(file, overrides)

    return call


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load what must be refused and return the mistakes."""

    def call(*overrides: str, text: str = BASE) -> list[Mistake]:
        with pytest.raises(SpecError) as caught:
            load(*overrides, text=text)
        return list(caught.value.mistakes)

    return call
