"""Calibration: constants of hardware files from measurements of kernels and collectives."""
