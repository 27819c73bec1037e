"""The router of a mixture of experts: scores, choice of experts, balance loss, counts.

Its kernels are those that PyTorch runs for softmax, top-k, two scatters, the counts and the
balance loss of Fedus et al. 2021 (arXiv:2101.03961, equation 4) on a tensor of tokens x experts:
short, and bound by their launch. The scores are a GEMM with operands in the compute format and an
fp32 result (Megatron-Core, `moe_router_dtype`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op, pass_ops
from desim.models.op import Comm, Module, Op
from desim.models.passes import Pass

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.mixture import Mixture
    from desim.spec.workload import Transformer

_COUNT_BYTES = 8  # int64 tokens per expert

#: Passes over tokens x experts: fp32 scores; the map of choices is a byte an element.
_CHOOSE = (
    Pass("_softmax", 0, 0, 1, 1),
    Pass("_top_k", 0, 0, 1, 0),
    Pass("_probabilities", 0, 0, 0, 1),
    Pass("_map", 0, 0, 0, 0.25),
    Pass("_counts", 0, 0, 0.25, 0),
    Pass("_balance_mean", 0, 0, 1, 0),
    Pass("_balance_loss", 0, 0, 0, 0),
    Pass("_row_ids", 0, 0, 0.25, 0),
)
_CHOOSE_BACKWARD = (
    Pass("_probabilities_dx", 0, 0, 1, 1),
    Pass("_balance_dx", 0, 0, 1, 1),
    Pass("_softmax_dx", 0, 0, 2, 1),
)
_KEPT_BYTES = 4 + 4 + 1  # softmax, probabilities, map


def router(model: Transformer, moe: Mixture, shard: Shard) -> Module:
    """Return the router; it saves its input, scores and choices.

    Without a capacity the ranks of the expert group exchange their counts and the host reads them.
    """
    tokens, experts = shard.split_tokens, moe.experts
    elements = tokens * experts
    dropless = moe.capacity_factor is None
    counts: tuple[Comm, ...] = ()
    if dropless and shard.expert > 1:
        size = float(shard.expert * experts * _COUNT_BYTES)
        counts = (Comm("ep", "all_gather", size, "token_counts"),)
    width = shard.gradient_bytes
    rows = int(tokens)
    return Module(
        "router",
        forward=(
            _score("router", shard, (rows, experts, model.hidden), "forward", 4.0),
            *pass_ops("router", "router", shard, elements, _CHOOSE),
        ),
        dgrad=(
            *pass_ops("router", "router", shard, elements, _CHOOSE_BACKWARD),
            _score("router_dgrad", shard, (rows, model.hidden, experts), "dgrad"),
            _join(model, shard),
        ),
        wgrad=(_score("router_wgrad", shard, (experts, model.hidden, rows), "wgrad", width),),
        parameters=experts * model.hidden,
        saved_bytes=tokens * model.hidden * shard.element_bytes + elements * _KEPT_BYTES,
        saved_input_bytes=tokens * model.hidden * shard.element_bytes,
        post_forward=counts,
        read_back=dropless,
    )


def _score(
    name: str,
    shard: Shard,
    shape: tuple[int, int, int],
    variant: str,
    output_bytes: float | None = None,
) -> Op:
    """Return one of the router's GEMMs, in the format of activations."""
    m, n, k = shape
    width = shard.element_bytes
    written = m * n * (width if output_bytes is None else output_bytes)
    read = (m * k + k * n) * width
    return Op(name, "gemm", shard.dtype, 2.0 * m * n * k, read, written, shape, variant)


def _join(model: Transformer, shard: Shard) -> Op:
    """Add the gradients of the input that come from the experts and from the router."""
    elements = shard.split_tokens * model.hidden
    width = shard.element_bytes
    return elementwise_op("router_skip_add", "residual", shard.dtype, elements, 2 * width, width)
