"""The base of all specs and the field types that carry units."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from desim import units


class Spec(BaseModel):
    """A frozen piece of a scenario; unknown keys and silent conversions are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=False,
        validate_by_name=False,
        validate_by_alias=True,
    )


def _quantity(dimension: str) -> Any:
    def read(value: object) -> float:
        return units.parse(value, dimension)

    def write(value: float) -> str:
        return units.write(value, dimension)

    return BeforeValidator(read), PlainSerializer(write, return_type=str)


Bytes = Annotated[float, *_quantity("bytes"), Gt(0)]
BytesPerSecond = Annotated[float, *_quantity("bytes_per_s"), Gt(0)]
BytesPerSecondOrNone = Annotated[float, *_quantity("bytes_per_s"), Ge(0)]
FlopsPerSecond = Annotated[float, *_quantity("flops_per_s"), Gt(0)]
Seconds = Annotated[float, *_quantity("s"), Ge(0)]
Watts = Annotated[float, *_quantity("w"), Gt(0)]

PositiveInt = Annotated[int, Gt(0), Le(10**12)]
Share = Annotated[float, Gt(0), Field(le=1)]
