"""The MLP half of a transformer block.

Saved bytes, 16-bit: the input 2sbh, the activation's input 2sbf (gated: gate and up, 4sbf) and the
down projection's input 2sbf, f the MLP's width; with f = 4h and no gate the 18sbh of Korthikanti et
al. 2022 (arXiv:2205.05198, section 4), to which dropout adds its mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import activation
from desim.models.linear import column_linear, row_linear

if TYPE_CHECKING:
    from desim.models.op import Module
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer


def mlp_modules(model: Transformer, shard: Shard) -> tuple[Module, ...]:
    """Return the modules of a block's MLP, without norm and residual."""
    width = model.ffn // shard.tensor
    name = "gate_up" if model.gated else "up"
    outputs = 2 * width if model.gated else width
    up = column_linear(name, shard, model.hidden, outputs, bias=model.bias, normed=True)
    down = row_linear("down", shard, width, model.hidden, bias=model.bias)
    return (up, activation(model, shard), down)
