"""Calibration: constants of a device file from measurements of its kernels."""
