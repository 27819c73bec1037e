"""What a rule finds, and the arithmetic that its hints share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from desim.spec.scenario import Scenario
from desim.spec.schedules import INTERLEAVED, TWO_CHUNKS


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a scenario breaks, or with `note` something that its user should know."""

    path: str
    rule: str
    value: object = ""
    hint: str = ""
    note: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A check and the paths that it reads; it is left out where one of them is already refused."""

    check: Callable[[Scenario], Iterator[Finding]]
    reads: tuple[str, ...]


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest_multiples(number: int, unit: int) -> str:
    """Write the multiples of `unit` next to `number`: `60 or 64`."""
    below, above = number // unit * unit, -(-number // unit) * unit
    return str(above) if below in (0, above) else f"{below} or {above}"


def nearest_divisors(of: int, near: int, limit: int | None = None) -> str:
    """Write the divisors of `of` (up to `limit`) next to `near`: `4 or 8`."""
    choices = [d for d in divisors(of) if limit is None or d <= limit]
    below = [d for d in choices if d <= near]
    above = [d for d in choices if d > near]
    return " or ".join(str(d) for d in [*below[-1:], *above[:1]])


def data_size(scenario: Scenario) -> int | None:
    """Return the data-parallel size, or None where the mesh does not fit the devices."""
    parallel = scenario.parallel
    inner = parallel.tensor * parallel.context * parallel.pipeline
    if parallel.data == "auto":
        size, rest = divmod(scenario.cluster.devices, inner)
        return size if rest == 0 and size > 0 else None
    return parallel.data if parallel.data * inner == scenario.cluster.devices else None


def micro_batches(scenario: Scenario) -> int | None:
    """Return the micro-batches of a step on one replica, or None where they do not come out."""
    size = data_size(scenario)
    if size is None:
        return None
    count, rest = divmod(scenario.workload.global_batch, size * scenario.workload.micro_batch)
    return count if rest == 0 and count > 0 else None


def num_chunks(scenario: Scenario) -> int:
    """Return into how many chunks the layers are cut: stages, times virtual stages in use."""
    parallel, policies = scenario.parallel, scenario.policies
    if policies.schedule in TWO_CHUNKS:
        return parallel.pipeline * 2
    if policies.schedule == "custom":
        return parallel.pipeline * (policies.custom.chunks if policies.custom else 1)
    used = policies.schedule in INTERLEAVED
    return parallel.pipeline * (parallel.virtual_stages if used else 1)
