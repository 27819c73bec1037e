"""Models as arithmetic: a workload and a shard become layers of modules of ops.

Nothing here knows a clock, a device or a schedule. `build.build_layers` is the way in; `count`
holds the numbers that are published about a model, `optimizer` what its parameters cost.
"""
