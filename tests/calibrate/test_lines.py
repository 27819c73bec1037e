"""Fits of lines: they find the lines that made the times."""

from __future__ import annotations

import numpy as np

from desim.calibrate.lines import Line, fit_least_of_lines, fit_line

FREE = np.array([True, True])


def test_one_line_is_found_through_outliers():
    size = np.linspace(1, 50, 40)
    features = np.stack([np.ones(40), size], axis=1)
    seconds = 3 + 0.5 * size
    seconds[::10] *= 2
    line = Line(features, np.ones(40, np.bool_), np.zeros(2), FREE)
    found = fit_line(line, np.ones(40, np.bool_), seconds)
    np.testing.assert_allclose(found, [3, 0.5], rtol=0.02)


def test_weights_stay_above_their_least_and_fixed_ones_do_not_move():
    features = np.stack([np.ones(20), np.arange(20.0)], axis=1)
    line = Line(features, np.ones(20, np.bool_), np.array([1.0, 2.0]), np.array([True, False]))
    found = fit_line(line, np.ones(20, np.bool_), 5 + 1.0 * np.arange(20))
    assert found[1] == 2.0
    assert found[0] >= 1.0


def test_the_lower_of_two_lines_is_told_apart():
    size = np.geomspace(1, 1e4, 60)
    features = np.stack([np.ones(60), size], axis=1)
    seconds = np.minimum(1 + 0.1 * size, 20 + 0.01 * size)
    every = np.ones(60, np.bool_)
    lines = [Line(features, every, np.zeros(2), FREE)] * 2
    error, (small, large) = fit_least_of_lines(lines, seconds, (size > 50).astype(np.int64))
    assert error < 1e-9
    np.testing.assert_allclose([*small, *large], [1, 0.1, 20, 0.01], rtol=1e-6)
