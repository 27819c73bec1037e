"""Scenario files to scenarios, with what only a plan can say of those that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.errors import SpecError
from desim.plan.sharded_stages import repeated_text
from desim.spec import load
from desim.spec.rules.policy import NOT_IN_A_PIPELINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from desim.errors import Mistake
    from desim.spec.load import Loaded


def load_scenario(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Loaded:
    """Load a scenario as `spec.load` does.

    Raises SpecError with every mistake; of ZeRO-2 or -3 in a pipeline it says the bytes.
    """
    try:
        return load.load_scenario(source, overrides)
    except SpecError as error:
        raise SpecError([_with_bytes(m, source, overrides) for m in error.mistakes]) from None


def _with_bytes(
    mistake: Mistake, source: str | Path | Mapping[str, Any], overrides: Sequence[str]
) -> Mistake:
    """Add what the same job moves under ZeRO-1, where that is a valid scenario."""
    if NOT_IN_A_PIPELINE not in mistake.rule:
        return mistake
    try:
        scenario = load.load_scenario(source, (*overrides, "parallel.zero=1")).scenario
    except SpecError:
        return mistake
    text = repeated_text(scenario, int(mistake.value))
    return replace(mistake, rule=f"{mistake.rule}: {text}") if text else mistake
