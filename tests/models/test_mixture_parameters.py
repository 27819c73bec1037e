"""Law: parameters of mixtures of experts are the published ones, whole and active."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from desim.api import load
from desim.models.build import build_layers
from desim.models.count import (
    active_matrix_parameters,
    active_parameter_count,
    model_flops_per_sample,
    parameter_count,
)
from desim.models.shard import Shard
from desim.spec.policy import Kernels
from desim.spec.workload import Precision, Transformer, Workload
from tests.jobs import BASE


def model_of(name: str) -> Transformer:
    scenario = {**BASE, "workload": {**BASE["workload"], "model": name}}
    model = load(scenario).workload.model
    assert isinstance(model, Transformer)
    return model


# Exact counts: elements of the published checkpoints, of DeepSeek-V3 less the 58 x 256 offsets of
# its routers, which no gradient trains. Active ones as the models' pages state them; for
# DeepSeek-V2-Lite they state 2.4e9, which leaves out the embedding table of 102,400 x 2,048.
PUBLISHED = {
    "mixtral_8x7b": (46_702_792_704, 12.9e9),
    "mixtral_8x22b": (140_630_071_296, 39e9),
    "deepseek_v2_lite": (15_706_484_224, 2.4e9 + 102_400 * 2_048),
    "deepseek_v2": (235_741_434_880, 21e9),
    "deepseek_v3": (671_026_404_352, 37e9),
    "qwen3_30b_a3b": (30_532_122_624, 3.3e9),
    "qwen3_235b_a22b": (235_093_634_560, 22e9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    model = model_of(name)
    whole, active = PUBLISHED[name]
    assert parameter_count(model) == whole
    assert active_parameter_count(model) == pytest.approx(active, rel=0.05)


def test_grok_is_near_its_name() -> None:
    assert parameter_count(model_of("grok1")) == pytest.approx(314e9, rel=0.01)


def test_maverick_is_near_its_name() -> None:
    model = model_of("llama4_maverick")
    assert parameter_count(model) == pytest.approx(400e9, rel=0.01)
    assert active_parameter_count(model) == pytest.approx(17e9, rel=0.03)


def layers_of(model: Transformer, **cut: Any) -> Any:
    shard = Shard(
        sequence=True,
        context=1,
        data_ranks=1,
        micro_batch=1,
        sequence_length=4096,
        precision=Precision(),
        kernels=Kernels(),
        **cut,
    )
    workload = Workload(model=model, sequence_length=4096, global_batch=1, micro_batch=1)
    return build_layers(workload, shard)


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "deepseek_v3", "qwen3_30b_a3b", "grok1"])
def test_modules_hold_every_parameter(name: str) -> None:
    model = model_of(name)
    layers = layers_of(model, tensor=1)
    padding = (Shard.padded_vocab(_one(), model.vocab) - model.vocab) * model.hidden
    tables = 1 if model.tied_embeddings else 2
    assert sum(layer.parameters for layer in layers) == parameter_count(model) + tables * padding


def _one() -> Shard:
    return Shard(1, True, 1, 1, 1, 4096, Precision(), Kernels())


@pytest.mark.parametrize(("expert", "tensor"), [(1, 2), (8, 1), (64, 1), (4, 2)])
def test_expert_ranks_share_the_experts(expert: int, tensor: int) -> None:
    model = model_of("deepseek_v3")
    whole = layers_of(model, tensor=1)[-2]
    part = layers_of(model, tensor=tensor, expert=expert, expert_tensor=tensor)[-2]
    assert part.expert_parameters * expert * tensor == whole.expert_parameters
    assert whole.expert_parameters == 256 * 3 * 7168 * 2048


@pytest.mark.parametrize("name", ["mixtral_8x7b", "deepseek_v3"])
def test_model_flops_are_those_of_the_products(name: str) -> None:
    """Six per active parameter in products and token, and causal attention."""
    model = model_of(name)
    dims = sum((model.mla.query_head_dim, model.mla.value_head_dim)) if model.mla else 256
    attention = 0.5 * 6 * model.layers * model.heads * dims * 4096 * 4096
    expected = 6.0 * active_matrix_parameters(model) * 4096 + attention
    assert model_flops_per_sample(model, 4096) == pytest.approx(expected)
    kinds = ("gemm", "grouped_gemm", "attention")
    kernels = sum(
        op.flops
        for layer in layers_of(model, tensor=1)
        for module in layer.modules
        for op in (*module.forward, *module.dgrad, *module.wgrad)
        if op.kind in kinds
    )
    # A fused attention's backward pass does 2.5 times the forward's work, not twice.
    assert kernels == pytest.approx(expected + attention / 6, rel=0.002)


#: Keys of the published config.json of the models in the catalogue.
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "mixtral_8x7b": {
        "model_type": "mixtral",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
    },
    "qwen3_30b_a3b": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 48,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": 151936,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hugging_face_configurations_are_the_catalogues_models(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIGS[name]))
    imported, known = model_of(str(file)), model_of(name)
    update = {"name": known.name, "source": known.source}
    assert imported.model_copy(update=update) == known
