"""A deep learning recommendation model as layers on one rank.

Tables are model parallel, spread evenly over `data_ranks` (row- and column-wise cuts balance what
does not divide), and both MLPs are data parallel (Naumov et al. 2019, arXiv:1906.00091). Row
indices are assumed to be on their rank before the step, as a prefetching input pipeline has them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import expm1
from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.gemm import gemm
from desim.models.linear import column_linear
from desim.models.op import Comm, Layer, Module, Op
from desim.models.optimizer import state_bytes
from desim.models.width import stored_bytes

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.workload import Dlrm

_INDEX_BYTES = 8
_SECTOR_BYTES = 32  # device memory is read in sectors of 32 B (CUDA C best practices, 10.2.1)


def build_dlrm(model: Dlrm, shard: Shard, global_batch: int, local_batch: int) -> tuple[Layer, ...]:
    """Return the layers tables, bottom, interaction and top of one rank.

    `shard.data_ranks` above 1 spreads the tables over that many ranks, each looking up its share
    for the global batch; at 1 every rank holds all tables and looks up its `local_batch` samples.
    """
    dense = replace(shard, micro_batch=local_batch, sequence_length=1, tensor=1, context=1)
    return (
        _tables(model, shard, global_batch, local_batch),
        _mlp("bottom", model.bottom_mlp, dense, model.bias),
        _interaction(model, dense),
        _mlp("top", model.top_mlp, dense, model.bias, loss=True),
    )


def _table_width(shard: Shard) -> float:
    """Bytes of an element of a table, and of a pooled vector, which keeps the table's format."""
    return stored_bytes(shard.precision.embedding or shard.precision.compute)


def _row_bytes(model: Dlrm, shard: Shard) -> float:
    row = model.embedding_dim * _table_width(shard)
    return -(-row // _SECTOR_BYTES) * _SECTOR_BYTES


def _bag_op(model: Dlrm, shard: Shard, bags: float) -> Op:
    """The look-up of `bags` (sample, table) pairs: rows in, their sums out."""
    lookups = bags * model.pooling
    pooled = bags * model.embedding_dim * _table_width(shard)
    read = lookups * (_row_bytes(model, shard) + _INDEX_BYTES)
    return Op(
        "embedding_bag",
        "embedding_bag",
        shard.dtype,
        lookups * model.embedding_dim,
        read,
        pooled,
        (int(lookups * model.embedding_dim),),
    )


def _update_op(model: Dlrm, shard: Shard, bags: float, samples: int) -> Op:
    """The fused backward: pooled gradients in, looked-up rows and their state updated in place.

    Look-ups are sorted by row and a row is updated once, as FBGEMM does it. Of n look-ups that fall
    on R rows at random, R (1 - exp(-n / R)) are of different rows.
    """
    lookups = bags * model.pooling
    share = samples * model.pooling / model.rows
    rows = lookups * -expm1(-share) / share
    precision = shard.precision
    whole = precision.optimizer != "adagrad_rowwise"
    state = state_bytes(precision) * (model.embedding_dim if whole else 1)
    row = _row_bytes(model, shard) + state
    pooled = bags * model.embedding_dim * _table_width(shard)
    return Op(
        "embedding_bag_update",
        "embedding_bag",
        shard.dtype,
        lookups * model.embedding_dim * 2,
        pooled + rows * row + lookups * _INDEX_BYTES,
        rows * row,
        (int(lookups * model.embedding_dim),),
    )


def _tables(model: Dlrm, shard: Shard, global_batch: int, local_batch: int) -> Layer:
    """Embedding bags, and the exchange that gives every rank the pooled vectors of its samples.

    A rank sends one pooled vector per sample and table it holds: global_batch x tables / ranks x
    dimension; look-ups are summed before they travel. Copied tables need none of it forward, but
    every rank applies the whole batch's updates: pooled gradients and indices are gathered.
    """
    sharded = shard.data_ranks > 1
    width = _table_width(shard)
    bags = global_batch * model.tables / shard.data_ranks if sharded else local_batch * model.tables
    touched = bags if sharded else global_batch * model.tables
    pooled = bags * model.embedding_dim * width
    forward: tuple[Comm, ...] = ()
    backward: tuple[Comm, ...] = ()
    if sharded:
        forward = (Comm("world", "all_to_all", pooled, "pooled"),)
        backward = (Comm("world", "all_to_all", pooled, "pooled_dx"),)
    elif global_batch > local_batch:
        size = touched * (model.embedding_dim * width + model.pooling * _INDEX_BYTES)
        backward = (Comm("world", "all_gather", size, "sparse_gradients"),)
    indices = bags * model.pooling * _INDEX_BYTES
    module = Module(
        "embedding_bag",
        forward=(_bag_op(model, shard, bags),),
        wgrad=(_update_op(model, shard, touched, global_batch),),
        parameters=-(-model.tables * model.rows * model.embedding_dim // shard.data_ranks),
        saved_bytes=indices,
        post_forward=forward,
        pre_backward=backward,
    )
    return Layer("tables", (module,), input_bytes=indices)


def _mlp(name: str, widths: tuple[int, ...], shard: Shard, bias: bool, loss: bool = False) -> Layer:
    modules: list[Module] = []
    width = shard.element_bytes
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        modules.append(column_linear(f"{name}_{index}", shard, inputs, outputs, bias=bias))
        elements = float(shard.tokens * outputs)
        relu = elementwise_op(
            f"{name}_{index}_relu", "activation", shard.dtype, elements, width, width
        )
        back = elementwise_op(
            f"{name}_{index}_relu_dx", "activation", shard.dtype, elements, 2 * width, width
        )
        # ReLU works in place and its backward reads its output, which the next layer saves.
        modules.append(Module(f"{name}_{index}_relu", forward=(relu,), dgrad=(back,)))
    if loss:
        size = float(shard.tokens * widths[-1])
        modules.append(
            Module(
                "loss",
                forward=(elementwise_op("loss", "cross_entropy", shard.dtype, size, width + 4, 4),),
                dgrad=(
                    elementwise_op("loss_dx", "cross_entropy", shard.dtype, size, width + 4, width),
                ),
                saved_bytes=size * width,
            )
        )
    return Layer(name, tuple(modules), input_bytes=shard.tokens * widths[0] * width)


def _interaction(model: Dlrm, shard: Shard) -> Layer:
    """Pairwise dot products of the pooled and the dense vector, or their concatenation.

    The products of all pairs are one batched GEMM per direction; the triangle is copied out.
    """
    width = shard.element_bytes
    vectors = model.tables + 1
    inputs = float(shard.tokens * (model.tables * model.embedding_dim + model.bottom_mlp[-1]))
    outputs = float(shard.tokens * model.top_mlp[0])
    forward: tuple[Op, ...] = (_copy("interaction", shard, inputs, outputs),)
    dgrad: tuple[Op, ...] = (_copy("interaction_dx", shard, outputs, inputs),)
    if model.interaction == "dot":
        dim, batch = model.embedding_dim, shard.tokens
        product = gemm("interaction_dot", shard, (vectors, vectors, dim, batch))
        # The gradient of Z = X X^T is (dZ + dZ^T) X: one product of the same size.
        back = gemm("interaction_dot_dx", shard, (vectors, dim, vectors, batch), "dgrad")
        pairs = float(batch * vectors * vectors)
        forward = (product, _copy("interaction", shard, pairs, outputs))
        dgrad = (_copy("interaction_dx", shard, outputs, pairs), back)
    module = Module("interaction", forward=forward, dgrad=dgrad, saved_bytes=inputs * width)
    return Layer("interaction", (module,), input_bytes=inputs * width)


def _copy(name: str, shard: Shard, read: float, written: float) -> Op:
    width = shard.element_bytes
    return Op(name, "interaction", shard.dtype, 0.0, read * width, written * width, (int(written),))
