"""Documents in a sequence: what is expected of a distribution of lengths, and what is drawn of it.

Drawn documents make an endless stream, which sequences of s tokens cut anywhere. Two tokens u
apart are of one document with probability E[(L - u)+] / E[L] (a renewal process in equilibrium:
Cox 1962, "Renewal Theory"), so that the squares of lengths in a sequence are expected
to add up to

    2 / E[L] x integral over u from 0 to s of (s - u) E[(L - u)+]
    = (s E[L^2; L <= s] - E[L^3; L <= s] / 3 + s^2 E[L; L > s] - s^3 P(L > s) / 3) / E[L],

in s / E[L] + 1 documents: those that begin there, and the one under way. A sequence is all of one
document with probability E[(L - s)+] / E[L].
"""

from __future__ import annotations

from functools import lru_cache
from math import erfc, exp, log, sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np

from desim.models.op import Packing
from desim.spec.documents import SAMPLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.spec.documents import Documents

#: Lengths drawn at once, at most: 32 MB.
_DRAWN_AT_ONCE = 4_000_000


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    @property
    def mean(self) -> float:
        """Mean length."""

    def moment_below(self, power: int, limit: float) -> float:
        """E[L^power; L <= limit]."""

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
        """Lengths of documents."""

    def draw_cut(self, random: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Lengths of the documents that tokens chosen at random are of."""


class LogNormal:
    """Lengths of a mean whose logarithm has a deviation."""

    def __init__(self, mean: float, sigma: float) -> None:
        self.mean = mean
        self._sigma = sigma
        self._mu = log(mean) - sigma**2 / 2

    def moment_below(self, power: int, limit: float) -> float:
        """E[L^power; L <= limit]: a log-normal weighted by L^power is one again."""
        at = (log(limit) - self._mu - power * self._sigma**2) / self._sigma
        return exp(power * self._mu + (power * self._sigma) ** 2 / 2) * erfc(-at / sqrt(2)) / 2

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
        """Lengths of documents."""
        return random.lognormal(self._mu, self._sigma, size)

    def draw_cut(self, random: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Lengths of the documents of tokens: each as likely as it is long."""
        return random.lognormal(self._mu + self._sigma**2, self._sigma, size)


class Listed:
    """Lengths of a list, with weights."""

    def __init__(self, lengths: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
        self._lengths = np.array(lengths, dtype=np.float64)
        given = np.ones(len(lengths)) if weights is None else np.array(weights)
        self._share = given / given.sum()
        self.mean = float(self._lengths @ self._share)

    def moment_below(self, power: int, limit: float) -> float:
        """E[L^power; L <= limit]."""
        return float((self._lengths**power * self._share)[self._lengths <= limit].sum())

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
        """Lengths of documents."""
        return random.choice(self._lengths, size, p=self._share)

    def draw_cut(self, random: np.random.Generator, size: int) -> NDArray[np.float64]:
        """Lengths of the documents of tokens: each as likely as it is long."""
        return random.choice(self._lengths, size, p=self._lengths * self._share / self.mean)


def lengths_of(documents: Documents) -> Lengths:
    """Return the distribution of documents that are drawn."""
    if documents.distribution == "listed":
        assert documents.lengths is not None, "a rule refuses it"
        return Listed(documents.lengths, documents.weights)
    assert documents.mean_tokens is not None, "a rule refuses it"
    return LogNormal(float(documents.mean_tokens), documents.sigma)


@lru_cache(maxsize=16)
def expected_packing(
    documents: Documents, sequence_length: int, sequences: int = 1
) -> Packing | None:
    """Return what a micro-batch of `sequences` is expected to hold; None: one document in each.

    The longest document is the mean of a sample, the same for all seeds.
    """
    if documents.distribution == "fixed":
        assert documents.mean_tokens is not None, "a rule refuses it"
        return _fixed(documents.mean_tokens, sequence_length)
    lengths, s = lengths_of(documents), float(sequence_length)
    mean, below = lengths.mean, [lengths.moment_below(power, s) for power in range(4)]
    squares = s * below[2] - below[3] / 3 + s**2 * (mean - below[1]) - s**3 * (1 - below[0]) / 3
    shape = (max(1, SAMPLE // sequences), 1)
    sample = draw_packings(documents, sequence_length, shape, np.random.default_rng(0), sequences)
    longest = sum(packing.longest for (packing,) in sample) / len(sample)
    whole = max(0.0, mean - below[1] - s * (1 - below[0])) / mean
    return Packing(squares / mean / s**2, s / mean + 1, longest, whole=whole)


def _fixed(length: int, sequence_length: int) -> Packing | None:
    """A sequence of whole documents and, where there is one, a shorter last one."""
    count, rest = divmod(sequence_length, length)
    if count == 0 or (count == 1 and not rest):
        return None
    squares = count * length**2 + rest**2
    equal = 0 if rest else count
    return Packing(
        squares / sequence_length**2, count + bool(rest), length / sequence_length, equal
    )


def draw_packings(
    documents: Documents,
    sequence_length: int,
    shape: tuple[int, int],
    random: np.random.Generator,
    sequences: int = 1,
) -> list[list[Packing]]:
    """Draw `shape` micro-batches of `sequences` each."""
    lengths, s = lengths_of(documents), float(sequence_length)
    number = shape[0] * shape[1] * sequences
    # A sequence begins anywhere in a document; what is left of it is the first one there.
    first = np.minimum(lengths.draw_cut(random, number) * (1.0 - random.random(number)), s)
    filled, squares, longest, count = first.copy(), first**2, first.copy(), np.ones(number)
    each = max(8, min(int(2 * s / lengths.mean), _DRAWN_AT_ONCE // number))
    while (open_ := np.flatnonzero(filled < s)).size:
        ends = filled[open_, None] + np.cumsum(lengths.draw(random, (len(open_), each)), axis=1)
        ends = np.minimum(np.concatenate([filled[open_, None], ends], axis=1), s)
        pieces = np.diff(ends, axis=1)
        squares[open_] += (pieces**2).sum(axis=1)
        count[open_] += (pieces > 0).sum(axis=1)
        longest[open_] = np.maximum(longest[open_], pieces.max(axis=1))
        filled[open_] = ends[:, -1]
    batches = (*shape, sequences)
    density = squares.reshape(batches).mean(axis=2) / s**2
    counts, most = count.reshape(batches).mean(axis=2), longest.reshape(batches).max(axis=2) / s
    whole = (count == 1).reshape(batches).mean(axis=2)
    table = np.stack([density, counts, most, whole], axis=2)
    return [
        [Packing(d, n, m, equal=int(n == 1), whole=w) for d, n, m, w in row]
        for row in table.tolist()
    ]
