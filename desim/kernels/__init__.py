"""Kernels: the time of one op alone on a device. `model.KernelModel` is the way in."""
