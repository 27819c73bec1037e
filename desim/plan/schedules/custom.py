"""A schedule of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.schedules.passes import Pass

if TYPE_CHECKING:
    from desim.plan.schedules.passes import Kind
    from desim.spec.orders import Custom, Word

_KINDS: dict[Word, Kind] = {"F": "forward", "B": "backward", "W": "weight", "BW": "whole"}


def custom_orders(custom: Custom) -> list[list[Pass]]:
    """Return the orders of `policies.custom`, which its rules have checked."""
    return [
        [Pass(_KINDS[word], micro_batch, chunk) for word, micro_batch, chunk in order]
        for order in custom.passes
    ]
