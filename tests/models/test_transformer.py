"""Layers of a transformer: collectives, kernels of each fusion level."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from desim.models.op import Layer, Module
from desim.models.shard import Shard
from desim.models.transformer import build_transformer, transformer_block
from desim.spec.mixture import Mixture
from desim.spec.policy import Kernels
from desim.spec.workload import Precision, Transformer

MODEL = Transformer(
    family="transformer",
    name="small",
    source="test",
    layers=4,
    hidden=1024,
    heads=16,
    kv_heads=4,
    head_dim=64,
    ffn=2816,
    gated=True,
    vocab=32000,
)
TOKENS_BYTES = 2 * 512 * 1024 * 2  # micro-batch x sequence x hidden x 16 bit


def cut(
    tensor: int = 1,
    sequence: bool = True,
    context: int = 1,
    compute: str = "bf16",
    length: int = 512,
    **kernels: str | bool | tuple[str, ...],
) -> Shard:
    precision = Precision(compute=compute)  # type: ignore[arg-type]
    chosen = Kernels(**kernels)  # type: ignore[arg-type]
    return Shard(tensor, sequence, context, 1, 2, length, precision, chosen)


def module(layer: Layer, name: str) -> Module:
    return next(m for m in layer.modules if m.name == name)


def comms(one: Module) -> dict[str, list[str]]:
    places = ("pre_forward", "post_forward", "pre_backward", "pre_wgrad", "post_dgrad")
    return {p: [c.collective for c in getattr(one, p)] for p in places if getattr(one, p)}


def traffic(layer: Layer) -> float:
    return sum(
        op.read_bytes + op.write_bytes
        for m in layer.modules
        for op in (*m.forward, *m.dgrad, *m.wgrad)
    )


def test_blocks_are_one_object() -> None:
    layers = build_transformer(MODEL, cut())
    assert [layer.kind for layer in layers] == ["embedding", *["block"] * 4, "head"]
    assert all(block is layers[1] for block in layers[1:5])


def test_sequence_parallel_collectives() -> None:
    layers = build_transformer(MODEL, cut(4))
    column = {
        "pre_forward": ["all_gather"],
        "pre_wgrad": ["all_gather"],
        "post_dgrad": ["reduce_scatter"],
    }
    row = {"post_forward": ["reduce_scatter"], "pre_backward": ["all_gather"]}
    block = layers[1]
    assert comms(module(block, "qkv")) == comms(module(block, "gate_up")) == column
    assert comms(module(block, "projection")) == comms(module(block, "down")) == row
    assert comms(module(layers[0], "embedding")) == row
    assert comms(module(layers[-1], "lm_head")) == column
    assert comms(module(layers[-1], "cross_entropy")) == {"post_forward": ["all_reduce"] * 3}
    sizes = {c.size_bytes for m in block.modules for c in (*m.pre_forward, *m.post_forward)}
    assert sizes == {TOKENS_BYTES}


def test_tensor_parallel_collectives_without_sequence() -> None:
    block = transformer_block(MODEL, cut(4, sequence=False))
    assert comms(module(block, "qkv")) == {"post_dgrad": ["all_reduce"]}
    assert comms(module(block, "down")) == {"post_forward": ["all_reduce"]}


def test_one_rank_needs_no_collective() -> None:
    for layer in build_transformer(MODEL, cut()):
        assert not any(comms(m) for m in layer.modules)


def test_context_parallel_gathers_keys_and_values() -> None:
    """K and V of the whole sequence: 2 x tokens x kv heads of the rank x head dimension x 2 B."""
    attention = module(transformer_block(MODEL, cut(2, context=4)), "attention")
    (gather,) = attention.pre_forward
    assert (gather.group, gather.size_bytes) == ("cp", 2 * 2 * 512 * 2 * 64 * 2)
    (scatter,) = attention.post_dgrad
    assert (scatter.collective, scatter.size_bytes) == ("reduce_scatter", gather.size_bytes)
    whole = module(transformer_block(MODEL, cut(2)), "attention")
    assert attention.forward[0].flops == whole.forward[0].flops / 4


def test_sharing_divides_gemm_work() -> None:
    """Tensor x context ranks share all GEMM FLOPs of a block exactly."""
    for tensor, context in itertools.product((1, 2, 4), (1, 2)):
        for attention in ("flash2", "unfused"):
            block = transformer_block(MODEL, cut(tensor, context=context, attention=attention))
            whole = transformer_block(MODEL, cut(attention=attention))
            flops = [
                sum(
                    op.flops
                    for m in layer.modules
                    for op in (*m.forward, *m.dgrad, *m.wgrad)
                    if op.kind in ("gemm", "attention")
                )
                for layer in (block, whole)
            ]
            assert flops[0] * tensor * context == pytest.approx(flops[1], rel=1e-12)


@pytest.mark.parametrize("attention", ["flash2", "unfused"])
@pytest.mark.parametrize("position", ["rope", "none"])
def test_fusion_never_adds_traffic_or_kernels(attention: str, position: str) -> None:
    model = MODEL.model_copy(update={"position": position, "dropout": 0.1})
    bytes_moved, kernels = [], []
    for fusion in ("te", "apex", "eager"):
        layers = build_transformer(model, cut(2, attention=attention, fusion=fusion))
        bytes_moved.append(sum(traffic(layer) for layer in layers))
        kernels.append(
            sum(
                len(m.forward) + len(m.dgrad) + len(m.wgrad)
                for layer in layers
                for m in layer.modules
            )
        )
    assert bytes_moved == sorted(bytes_moved)
    assert kernels == sorted(kernels)


def test_weight_gradients_add_to_fp32() -> None:
    """Fused accumulation reads and writes 4 B per parameter; eager writes 2 B and adds apart."""
    fused = module(transformer_block(MODEL, cut()), "down")
    (wgrad,) = fused.wgrad
    assert wgrad.write_bytes == 4 * fused.parameters
    assert wgrad.read_bytes == 4 * fused.parameters + 2 * 1024 * (1024 + 2816)
    eager = module(transformer_block(MODEL, cut(fusion="eager")), "down")
    product, add = eager.wgrad
    assert product.write_bytes == 2 * eager.parameters
    assert (add.read_bytes, add.write_bytes) == (6 * eager.parameters, 4 * eager.parameters)


def test_gradients_with_copies_are_summed_twice() -> None:
    """6 B per parameter to sum in bf16, 6 to widen, 12 to sum in fp32, 2 to clear: 26 in all, where
    a hook takes 10; the GEMM itself writes bf16."""
    shard = cut(fusion="apex", accumulation="unfused")
    copies = replace(shard, precision=Precision(gradient_copies=True))
    for one, expected in ((shard, 10), (copies, 26)):
        down = module(transformer_block(MODEL, one), "down")
        product, *sums = down.wgrad
        assert product.write_bytes == 2 * down.parameters
        assert sum(op.read_bytes + op.write_bytes for op in sums) == expected * down.parameters


def test_weight_gradients_of_the_computed_format_are_not_added_by_their_layer() -> None:
    """Autograd keeps the first of a step as it is (`plan.accumulation` adds the later ones)."""
    shard = cut(fusion="eager")
    shard = replace(shard, precision=Precision(gradients="bf16"))
    (product,) = module(transformer_block(MODEL, shard), "down").wgrad
    assert product.write_bytes == 2 * 1024 * 2816
    embedding = build_transformer(MODEL, shard)[0].modules[0]
    assert [op.name for op in embedding.wgrad] == ["embedding_clear", "embedding_scatter"]


def test_a_norm_in_fp32_converts_and_saves_a_copy() -> None:
    """Beside apex's own three kernels: 6 B per element to make the copy, 6 B to go back, 2 B more
    for each time that it is read or written, of which 4 B are saved."""
    apex = module(transformer_block(MODEL, cut(fusion="eager", norm="fused")), "norm1")
    wide = module(transformer_block(MODEL, cut(fusion="eager", norm="fused_fp32")), "norm1")
    elements = apex.saved_bytes / 2
    assert wide.saved_bytes == 4 * elements

    def moved(one: Module) -> float:
        ops = (*one.forward, *one.dgrad, *one.wgrad)
        return sum(op.read_bytes + op.write_bytes for op in ops) / elements

    assert moved(wide) - moved(apex) == 2 * 6 + 4 * 2


def test_projections_apart_give_their_input_several_gradients() -> None:
    """Added two by two, or by one compiled kernel; all-reduced each, or their sum scattered."""
    joined = transformer_block(MODEL, cut(2, sequence=False, fusion="eager"))
    chosen = ("qkv", "gate_up")
    eager = transformer_block(MODEL, cut(2, sequence=False, fusion="eager", apart=chosen))
    for name, count in (("qkv", 3), ("gate_up", 2)):
        (once,) = module(joined, name).post_dgrad
        assert module(eager, name).post_dgrad == (once,) * count
        added = module(eager, name).dgrad[1:]
        moved = [(op.read_bytes, op.write_bytes) for op in added]
        assert moved == [(2 * once.size_bytes, once.size_bytes)] * (count - 1)
        compiled = module(transformer_block(MODEL, cut(2, fusion="compile", apart=chosen)), name)
        (scatter,) = compiled.post_dgrad
        (add,) = compiled.dgrad[1:]
        assert (add.read_bytes, add.write_bytes) == (count * scatter.size_bytes, scatter.size_bytes)
    names = [op.name for op in module(eager, "activation").dgrad]
    assert [op.name for op in module(joined, "activation").dgrad] == [*names, "activation_cat"]


@pytest.mark.parametrize("context", [1, 4])
def test_repeated_keys_are_copied_saved_and_exchanged_for_every_query_head(context: int) -> None:
    """4 of 16 heads have keys: a quarter is read, four times as much gathered."""
    block = transformer_block(MODEL, cut(context=context, repeat_kv=True))
    plain = transformer_block(MODEL, cut(context=context))
    size = 2 * 2 * 512 / context * 1024 * 2  # K and V x micro-batch x sequence x hidden x 16 bit
    repeat = module(block, "repeat_kv")
    assert [(op.read_bytes, op.write_bytes) for op in repeat.forward] == [(size / 4, size)]
    assert [(op.read_bytes, op.write_bytes) for op in repeat.dgrad] == [(size, size / 4)]
    assert repeat.saved_bytes == 3 / 4 * size
    sizes = [[c.size_bytes for c in module(b, "attention").pre_forward] for b in (plain, block)]
    assert [4 * each for each in sizes[0]] == sizes[1]
    assert bool(sizes[0]) == (context > 1)


def test_fp8_operands() -> None:
    down = module(transformer_block(MODEL, cut(compute="fp8")), "down")
    cast, product = down.forward
    assert (cast.kind, product.dtype) == ("cast", "fp8")
    assert product.read_bytes == 1024 * 2816 + 2816 * 1024
    assert product.write_bytes == 1024 * 1024 * 2


@pytest.mark.parametrize(("first", "every"), [(0, 1), (0, 2), (1, 2), (1, 3)])
def test_experts_come_after_the_first_layers_and_last_in_each_group(first: int, every: int) -> None:
    moe = Mixture(experts=8, top_k=2, ffn=512, dense_layers=first, every=every)
    model = MODEL.model_copy(update={"layers": 7, "moe": moe})
    blocks = build_transformer(model, cut())[1:-1]
    mixed = [any(module.name == "router" for module in block.modules) for block in blocks]
    groups = mixed[first:]
    assert not any(mixed[:first])
    assert groups == [number % every == every - 1 for number in range(len(groups))]
    assert model.dense_layers == mixed.count(False)
