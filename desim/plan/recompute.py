"""Recomputation: what a layer's forward pass keeps, and which modules run again before which.

Three kinds, as frameworks have them:

- `full`: a block keeps its input and runs again as a whole before its backward pass.
- `selective`: modules run again (Megatron-LM `--recompute-modules`). A run of neighbours is
  checkpointed as a whole: it keeps its input and runs again before the backward pass of its last
  module. A run that ends in a norm, an activation or MLA's up-projections discards its result
  instead, which the module after it had saved; it runs again before that module's backward pass.
- `per_op`: a block keeps its input and the results of some kernels, and runs the others again
  (torchtitan's `selective` with option `op`: fused attention, every second matrix product and
  reduce-scatters are kept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from desim.models.op import Layer, Module

#: Entries of `policies.recompute_modules` whose result is discarded and made again.
DISCARDED = frozenset({"norm", "activation", "expert_activation", "mla_up"})


@dataclass(frozen=True, slots=True)
class Recompute:
    """The policy: what is recomputed, and in how many blocks of each chunk (`None`: all).

    `restored`: so many of them, from the last one on, have run again before the backward pass.
    """

    kind: Literal["none", "selective", "per_op", "full"] = "none"
    modules: tuple[str, ...] = ("core_attention",)
    layers: int | None = None
    early_stop: bool = False
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the forward pass of a layer keeps and how the rest comes back.

    `kept_bytes[i]` of module i stay from the forward pass. Before the backward pass of module i the
    modules `again[i]` run again; `restored_bytes[i]` are there anew once module i has.
    """

    kept_bytes: tuple[float, ...]
    again: Mapping[int, tuple[int, ...]]
    restored_bytes: tuple[float, ...]
    stop: int | None = None


def keeping(layer: Layer, policy: Recompute) -> Keeping:
    """Return what `layer` keeps under `policy`."""
    modules = layer.modules
    saved = tuple(module.saved_bytes for module in modules)
    if policy.kind == "none" or layer.kind != "block":
        return Keeping(saved, {}, (0.0,) * len(modules))
    if policy.kind == "per_op":
        return _per_op(layer)
    if policy.kind == "full":
        run = tuple(range(len(modules)))
        kept = (layer.input_bytes, *(0.0 for _ in run[1:]))
        stop = _stop(modules) if policy.early_stop else None
        return Keeping(kept, {run[-1]: run}, _difference(saved, kept), stop)
    return _selective(modules, policy)


def _stop(modules: tuple[Module, ...]) -> int:
    """Return the first module from which on nothing is needed that is saved.

    PyTorch's non-reentrant checkpoint stops once every saved tensor is there again
    (`torch.utils.checkpoint.set_checkpoint_early_stop`): a block without dropout leaves out the
    last matrix product, a third of the MLP. A module is needed for what it makes and saves, and for
    its result where the next one saves it.
    """
    makes = [part + 1 for part, m in enumerate(modules) if m.saved_bytes > m.saved_input_bytes]
    takes = [part for part, m in enumerate(modules) if m.saved_input_bytes]
    return max((0, *makes, *takes))


def _per_op(layer: Layer) -> Keeping:
    saved = [module.saved_bytes for module in layer.modules]
    kept = [module.replay_saved_bytes for module in layer.modules]
    kept[0] += layer.input_bytes
    run = tuple(range(len(saved)))
    return Keeping(tuple(kept), {run[-1]: run}, _difference(saved, kept))


def _selective(modules: tuple[Module, ...], policy: Recompute) -> Keeping:
    chosen = policy.modules
    kept = [module.saved_bytes for module in modules]
    restored = [0.0] * len(modules)
    again: dict[int, tuple[int, ...]] = {}
    for run in _runs(modules, chosen):
        for part in run:
            input_bytes = modules[part].saved_input_bytes if part == run[0] else 0.0
            restored[part] = modules[part].saved_bytes - input_bytes
            kept[part] = input_bytes
        before, after = run[-1], run[-1] + 1
        if not _checkpointed(modules[before], chosen) and after < len(modules):
            kept[after] -= modules[after].saved_input_bytes
            restored[before] += modules[after].saved_input_bytes
            before = after
        elif policy.early_stop:
            run = _shortened(run, modules, restored)
        again[before] = run
    return Keeping(tuple(kept), again, tuple(restored))


def _shortened(
    run: tuple[int, ...], modules: tuple[Module, ...], restored: list[float]
) -> tuple[int, ...]:
    """Return a run without the last modules that only save their input.

    What they save is there once those before them have run.
    """
    while len(run) > 1 and modules[run[-1]].saved_bytes <= modules[run[-1]].saved_input_bytes:
        restored[run[-2]] += restored[run[-1]]
        restored[run[-1]] = 0.0
        run = run[:-1]
    return run


def _runs(modules: tuple[Module, ...], chosen: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Return the neighbours among the modules that run again."""
    runs: list[tuple[int, ...]] = []
    for part, module in enumerate(modules):
        if not set(module.recompute).isdisjoint(chosen):
            if runs and runs[-1][-1] == part - 1:
                runs[-1] = (*runs[-1], part)
            else:
                runs.append((part,))
    return runs


def _checkpointed(module: Module, chosen: tuple[str, ...]) -> bool:
    return any(name in chosen and name not in DISCARDED for name in module.recompute)


def _difference(
    whole: tuple[float, ...] | list[float], part: tuple[float, ...] | list[float]
) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(whole, part, strict=True))


def recomputed_positions(layers: Sequence[Layer], policy: Recompute) -> frozenset[int]:
    """Return the positions in a chunk of the blocks that recompute: the first `policy.layers`.

    Megatron-LM's `--recompute-method block` counts the blocks of each model chunk.
    """
    blocks = [position for position, layer in enumerate(layers) if layer.kind == "block"]
    return frozenset(blocks if policy.layers is None else blocks[: policy.layers])


def restored_positions(layers: Sequence[Layer], policy: Recompute) -> frozenset[int]:
    """Return the positions in a chunk of the blocks that run again before the backward pass."""
    blocks = sorted(recomputed_positions(layers, policy))
    return frozenset(blocks[-policy.restored :] if policy.restored else ())
