"""From a workload to layers: the one place that knows the model families."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from desim.models.dlrm import build_dlrm
from desim.models.lora import freeze_layers
from desim.models.transformer import build_transformer
from desim.spec.workload import Dlrm, Transformer

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.models.op import Layer
    from desim.models.shard import Shard
    from desim.spec.workload import Workload


def _transformer(workload: Workload, shard: Shard) -> tuple[Layer, ...]:
    layers = build_transformer(cast("Transformer", workload.model), shard)
    return layers if shard.adapters is None else freeze_layers(layers)


def _dlrm(workload: Workload, shard: Shard) -> tuple[Layer, ...]:
    """Tables look up the samples of every rank that holds a share of them."""
    samples = shard.micro_batch * shard.data_ranks
    if shard.data_ranks == 1:
        samples = workload.global_batch
    return build_dlrm(cast("Dlrm", workload.model), shard, samples, shard.micro_batch)


#: family -> its builder
FAMILIES: dict[str, Callable[[Workload, Shard], tuple[Layer, ...]]] = {
    "transformer": _transformer,
    "dlrm": _dlrm,
}


def build_layers(workload: Workload, shard: Shard) -> tuple[Layer, ...]:
    """Return the layers of the workload's model on one rank for one micro-batch, in order."""
    return FAMILIES[workload.model.family](workload, shard)
