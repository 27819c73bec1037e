"""Simulated over measured, against measured, a colour for each family, as SVG."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Points = Mapping[str, Sequence[tuple[float, float]]]

_WIDTH, _HEIGHT = 860, 420
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 16, 190, 46
_COLOURS = (
    "#2f6db3", "#d55e00", "#0f7f5c", "#cc79a7", "#e69f00", "#56b4e9", "#7b5cab", "#8a8428",
    "#882255", "#4a4a4a", "#b8c24a",
)  # fmt: skip
_FURTHEST = 0.5
_BAND = 0.05


def scatter(families: Points, unit: str) -> str:
    """Return a picture of errors over measured values (logarithmic); `families` hold pairs.

    A pair is (measured, simulated), both above 0. Errors beyond 50 % are drawn at the edge, hollow.
    """
    measured = [pair[0] for pairs in families.values() for pair in pairs]
    low, high = math.floor(math.log10(min(measured))), math.ceil(math.log10(max(measured)))
    axes = _Axes(low, max(high, low + 1))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="12" fill="#1c2530">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *axes.lines(unit),
    ]
    for number, (family, pairs) in enumerate(families.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        lines += [axes.dot(pair, colour) for pair in pairs]
        y = _TOP + 12 + 18 * number
        x = _WIDTH - _RIGHT + 20
        lines.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        lines.append(f'<text x="{x + 10}" y="{y}">{escape(family)} ({len(pairs)})</text>')
    return "\n".join([*lines, "</svg>", ""])


class _Axes:
    """Where values stand in the picture."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def x(self, measured: float) -> float:
        share = (math.log10(measured) - self._low) / (self._high - self._low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, error: float) -> float:
        share = (_FURTHEST - error) / (2 * _FURTHEST)
        return _TOP + share * (_HEIGHT - _TOP - _BOTTOM)

    def dot(self, pair: tuple[float, float], colour: str) -> str:
        measured, simulated = pair
        error = simulated / measured - 1.0
        kept = min(max(error, -_FURTHEST), _FURTHEST)
        style = f'fill="{colour}" fill-opacity="0.65"'
        if kept != error:
            style = f'fill="none" stroke="{colour}"'
        return f'<circle cx="{self.x(measured):.1f}" cy="{self.y(kept):.1f}" r="3" {style}/>'

    def lines(self, unit: str) -> Iterator[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        top, height = self.y(_BAND), self.y(-_BAND) - self.y(_BAND)
        width = right - _LEFT
        place = f'x="{_LEFT}" y="{top:.1f}" width="{width}" height="{height:.1f}"'
        yield f'<rect {place} fill="#eef3f8"/>'
        for percent in range(-50, 51, 10):
            y = self.y(percent / 100)
            stroke = "#7d8894" if percent == 0 else "#e7eaee"
            yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{stroke}"/>'
            yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent:+d} %</text>'
        for power in range(self._low, self._high + 1):
            x = self.x(10.0**power)
            yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e7eaee"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g}</text>'
        middle = (_LEFT + right) / 2
        title = f"measured ({escape(unit)}); up: simulated / measured - 1; shaded: within 5 %"
        yield f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{title}</text>'
