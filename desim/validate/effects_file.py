"""The file that says which rows of a table show the effect of which policy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen
from pydantic import AfterValidator, Field, ValidationError, model_validator

from desim.errors import Mistake, SpecError
from desim.spec.base import Spec
from desim.spec.nodes import plain
from desim.spec.text_file import shown
from desim.spec.yaml_source import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "effects.yaml"
ASCENDING = "ascending"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no pattern: {error}") from None
    return text


Two = Annotated[list[str], Field(min_length=2, max_length=2)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class Policy(Spec):
    """A change that pairs of rows show; `validation/effects.yaml` says what its fields mean."""

    name: Annotated[str, MinLen(1)]
    family: Annotated[str, MinLen(1)]
    path: Annotated[str, MinLen(1)]
    """The field of a scenario that the policy is."""
    differ: dict[str, Two | Literal["ascending"]] = Field(default_factory=dict)
    free: tuple[str, ...] = Field(default=(), strict=False)
    equal: dict[str, list[Pattern]] = Field(default_factory=dict)
    pairs: list[Two] = Field(default_factory=list)
    beside: bool = False

    @model_validator(mode="after")
    def _something(self) -> Policy:
        if not self.differ and not self.pairs:
            raise ValueError("must say by `differ` or `pairs` which rows are compared")
        ascending = [column for column, values in self.differ.items() if values == ASCENDING]
        if ascending and len(self.differ) > 1:
            raise ValueError(f"{ascending[0]}: ascending allows no other column in `differ`")
        return self


class Extra(Spec):
    """A measurement that stands in no row: row `like` but for some cells."""

    id: str
    like: str
    cells: dict[str, str]


class Readings(Spec):
    """What was found out about pairs that disagree: by policy (family/name) or family."""

    policies: dict[str, str] = Field(default_factory=dict)
    families: dict[str, str] = Field(default_factory=dict)

    def of(self, policy: Policy) -> str:
        """Return what is known about a policy's pairs, else about its family's, else nothing."""
        text = self.policies.get(f"{policy.family}/{policy.name}")
        return text or self.families.get(policy.family, "")


class EffectsFile(Spec):
    """Policies to look for, the noise of their sources, rows beside the table, readings."""

    noise: dict[str, Annotated[float, Ge(0)]]
    rows: list[Extra] = Field(default_factory=list)
    policies: Annotated[list[Policy], Field(min_length=1)]
    readings: Readings = Readings()

    @model_validator(mode="after")
    def _consistent(self) -> EffectsFile:
        families = {policy.family for policy in self.policies}
        silent = sorted(families - set(self.noise))
        if silent:
            raise ValueError(f"noise must say how much {', '.join(silent)} vary")
        keys = {f"{policy.family}/{policy.name}" for policy in self.policies}
        unknown = [key for key in self.readings.policies if key not in keys]
        unknown += [key for key in self.readings.families if key not in families]
        if unknown:
            raise ValueError(f"readings speak of no policy here: {', '.join(unknown)}")
        return self


def read_effects(table: Path) -> EffectsFile:
    """Read `effects.yaml` in the folder of a table; raises SpecError where it cannot be used."""
    file = table.parent / NAME
    if not file.is_file():
        rule = "needs a file that says which rows show which policy"
        raise SpecError([Mistake("--effects", rule, hint=f"write {shown(file)}")])
    try:
        return EffectsFile.model_validate(plain(read_file(file)))
    except ValidationError as error:
        raise SpecError(_mistakes(error.errors(), shown(file))) from None


def _mistakes(errors: Sequence[Any], file: str) -> list[Mistake]:
    found = []
    for error in errors:
        path = ".".join(str(part) for part in error["loc"])
        rule = error["msg"].removeprefix("Value error, ")
        value = error["input"]
        told = repr(value) if isinstance(value, (str, int, float)) else ""
        found.append(Mistake(path, rule[:1].lower() + rule[1:], told[:60], file=file))
    return found
