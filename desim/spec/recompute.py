"""What is recomputed before a gradient has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario


def restored_blocks(scenario: Scenario) -> int:
    """Blocks of a chunk that run again before its gradient is there; 0 where none does."""
    policies = scenario.policies
    waits = policies.recompute != "none" and scenario.parallel.pipeline > 1
    return policies.recompute_ahead if waits and policies.recompute_in == "bubble" else 0
