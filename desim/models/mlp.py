"""The MLP half of a transformer block.

Saved bytes, 16-bit: the input 2sbh, the activation's input 2sbf (gated: gate and up, 4sbf) and the
down projection's input 2sbf, f the MLP's width; with f = 4h and no gate the 18sbh of Korthikanti et
al. 2022 (arXiv:2205.05198, section 4), to which dropout adds its mask.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models.elementwise import activation
from desim.models.linear import apart, column_linear, partly_replayed, row_linear

if TYPE_CHECKING:
    from desim.models.op import Module
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer


def mlp_modules(
    model: Transformer, shard: Shard, ffn: int = 0, prefix: str = ""
) -> tuple[Module, ...]:
    """Return the modules of a block's MLP of width `ffn` (the model's), without norm and residual.

    `prefix` begins the names of a second MLP of the block, which no norm is fused with. Its matrix
    products are the fifth and later ones of the block, of which per-op recomputation keeps every
    second: gate and down, or without a gate up.
    """
    width = (ffn or model.ffn) // shard.tensor
    name = "gate_up" if model.gated else "up"
    outputs = 2 * width if model.gated else width
    normed = not prefix
    up = column_linear(prefix + name, shard, model.hidden, outputs, bias=model.bias, normed=normed)
    down = row_linear(f"{prefix}down", shard, width, model.hidden, bias=model.bias)
    up = partly_replayed(up, shard, model.hidden, width, width if model.gated else 0)
    if model.gated:
        down = partly_replayed(down, shard, width, model.hidden, 0)
    up = replace(up, tensors=2 if model.gated else 1)
    if model.gated and "gate_up" in shard.kernels.apart:
        up = apart(up, shard, model.hidden, 2)
    elements = float(shard.tokens * width)
    mlp = (up, activation(model, shard, elements, f"{prefix}activation"), down)
    return tuple(replace(module, recompute=(*module.recompute, "mlp")) for module in mlp)
