"""Measured peaks of memory: what was allocated and reserved on eight B200."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from desim.api import predict_memory
from desim.validate.assumptions import Assumptions, UnscoredError
from desim.validate.memory_rows import to_scenario

FILE = Path(__file__).parents[2] / "validation" / "peak_memory.csv"
ROWS = {row["id"]: row for row in csv.DictReader(FILE.open(encoding="utf-8"))}
OWN = [name for name, row in ROWS.items() if row["mem_is_own_run"] == "yes"]
GIB = 2.0**30


@pytest.mark.parametrize("name", [name for name in OWN if not ROWS[name]["experts"]])
def test_dense_runs(name: str) -> None:
    """Tensor, pipeline and context parallel: allocated within 0.2 %, reserved within 6 %."""
    row = ROWS[name]
    found = predict_memory(to_scenario(row, Assumptions()))
    assert found.allocated_bytes / GIB == pytest.approx(float(row["meas_peak_alloc_gib"]), rel=2e-3)
    assert found.reserved_bytes / GIB == pytest.approx(float(row["meas_reserved_gib"]), rel=6e-2)


def test_what_the_columns_say() -> None:
    scenario = to_scenario(ROWS["B200-39"], Assumptions())
    assert scenario.policies.context == "all_to_all"
    assert (scenario.parallel.tensor, scenario.parallel.context) == (2, 4)
    assert scenario.kernels.cross_entropy == "auto"
    assert to_scenario(ROWS["A100-20"], Assumptions()).kernels.cross_entropy == "unfused"


def test_unreadable_rows_say_why() -> None:
    with pytest.raises(UnscoredError, match="hidden is not a number: 'wide'"):
        to_scenario({**ROWS["B200-03"], "hidden": "wide"}, Assumptions())
    with pytest.raises(UnscoredError, match="grad_dtype is neither stated nor assumed"):
        to_scenario({**ROWS["B200-03"], "grad_dtype": ""}, Assumptions())
    with pytest.raises(UnscoredError, match="hw is not known"):
        to_scenario({**ROWS["B200-03"], "hw": "abacus"}, Assumptions())
