"""A user's own pipeline schedule: the passes of every stage in the order in which it plays them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from desim.spec.base import Spec

#: Words of passes; `BW` is a backward pass that is not split, where others are.
Word = Literal["F", "B", "W", "BW"]
_PASS = re.compile(r"(F|BW|B|W)(\d{1,9})(?:\.(\d{1,4}))?")


class Written(NamedTuple):
    """One pass of an order: forward, backward or weight gradient of a micro-batch in a chunk."""

    word: Word
    micro_batch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.word}{self.micro_batch}" + (f".{self.chunk}" if self.chunk else "")


class Custom(Spec):
    """A schedule of the user's own (`policies.schedule: custom`)."""

    orders: tuple[str, ...] = Field(strict=False, min_length=1)
    """Passes of each stage in order, one text a stage: `F0 F1 B0 B1`. `F3` is micro-batch 3
    forward, `B3` backward, `F3.1` in chunk 1. Where `W3` (gradients of weights) stands anywhere,
    `B3` stops at the gradient of the input and `BW3` is both. A stage may also be a list
    (`[F0, B0]`), and all of it a list of `[stage, F, micro_batch, chunk]`."""
    placement: Literal["loop", "v"] = "loop"
    """Where the chunks of a stage are in the model: `loop`: each round from the first stage to the
    last; `v`: every second round from the last stage to the first."""

    @field_validator("orders", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        rows = [list(row) if isinstance(row, (list, tuple)) else row for row in value]
        if rows and all(isinstance(row, list) and row and type(row[0]) is int for row in rows):
            rows = _by_stage(rows)
        texts = [" ".join(map(str, row)) if isinstance(row, list) else row for row in rows]
        if not all(isinstance(text, str) for text in texts):
            return value
        texts = [" ".join(text.replace(",", " ").split()) for text in texts]
        for stage, text in enumerate(texts):
            _check_words(stage, text)
        return texts

    @property
    def passes(self) -> tuple[tuple[Written, ...], ...]:
        """The passes of every stage."""
        return _passes(self.orders)

    @property
    def chunks(self) -> int:
        """Model chunks of a stage: those that a pass names."""
        return 1 + max(item.chunk for order in self.passes for item in order)

    @property
    def split(self) -> bool:
        """Whether some gradients of weights have a pass of their own."""
        return any(item.word in ("W", "BW") for order in self.passes for item in order)


def part_of(stage: int, stages: int, chunk: int, *, folded_back: bool) -> int:
    """Return which part of the model chunk `chunk` of a stage is, from 0.

    Chunks go round and round (Megatron-LM's interleaving), or, `folded_back`, every other time
    from the last stage to the first (the V of Qi et al. 2024, arXiv:2401.10241, section 6).
    """
    place = stages - 1 - stage if folded_back and chunk % 2 else stage
    return chunk * stages + place


def _by_stage(rows: list[list[Any]]) -> list[list[str]]:
    """Turn rows `[stage, word, micro_batch, chunk]` into a list of words for each stage."""
    orders: list[list[str]] = [[] for _ in range(1 + max(row[0] for row in rows))]
    for number, row in enumerate(rows):
        if len(row) not in (3, 4) or row[0] < 0:
            raise ValueError(f"row {number} must be [stage, pass, micro_batch] or have a chunk too")
        stage, word, micro_batch, *chunk = row
        orders[stage].append(f"{word}{micro_batch}" + "".join(f".{c}" for c in chunk))
    return orders


def _check_words(stage: int, text: str) -> None:
    """Refuse what is not a pass."""
    for word in text.split():
        if _PASS.fullmatch(word) is None:
            raise ValueError(
                f"{word!r} of stage {stage} is not a pass: write F0, B0, W0 or BW0 for micro-batch"
                " 0, F0.1 for its pass in chunk 1"
            )
    if not text:
        raise ValueError(f"stage {stage} has no passes")


@lru_cache(maxsize=8)
def _passes(orders: tuple[str, ...]) -> tuple[tuple[Written, ...], ...]:
    return tuple(tuple(_read(word) for word in text.split()) for text in orders)


def _read(text: str) -> Written:
    found = _PASS.fullmatch(text)
    assert found is not None, "the validator has read it"
    word, micro_batch, chunk = found.groups()
    kind: Word = word  # type: ignore[assignment]
    return Written(kind, int(micro_batch), int(chunk or 0))
