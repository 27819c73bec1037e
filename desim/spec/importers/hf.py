"""A Hugging Face `config.json` as a workload model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from desim.errors import Mistake, SpecError
from desim.spec.nodes import Node, from_plain, plain


def is_config(node: Node) -> bool:
    """Whether a file is a Hugging Face model configuration."""
    return isinstance(node.value, dict) and (
        "architectures" in node.value or "model_type" in node.value
    )


def convert(node: Node) -> Node:
    """Return the model mapping of a configuration; raises SpecError where there is none."""
    config = plain(node)
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    reader = _READERS.get(name or _ARCHITECTURE.get(str(config.get("model_type")), ""))
    if reader is None:
        given = name or config.get("model_type")
        hint = f"supported: {', '.join(_READERS)}; or write the model as a mapping"
        raise _refuse(node, "architectures", "this architecture cannot be imported", given, hint)
    try:
        values = reader(config)
    except KeyError as error:
        raise _refuse(node, str(error.args[0]), "key is missing in the configuration") from None
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise _refuse(node, "", f"the configuration cannot be imported: {error}") from None
    label = str(config.get("_name_or_path") or config.get("model_type") or name)
    source = f"Hugging Face configuration {node.file}"
    model = {"family": "transformer", "name": label, "source": source, **values}
    return from_plain(model, node.file, node.line)


def _llama(config: dict[str, Any]) -> dict[str, Any]:
    """LLaMA and its kin: RMS norm, rotary positions, gated MLP."""
    biased = bool(config.get("attention_bias", False))
    if biased != bool(config.get("mlp_bias", False)):
        raise ValueError(
            "attention_bias and mlp_bias differ; desim has biases everywhere or nowhere"
        )
    heads = config["num_attention_heads"]
    return {
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "ffn": config["intermediate_size"],
        "gated": True,
        "vocab": config["vocab_size"],
        "norm": "rms",
        "position": "rope",
        "bias": biased,
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
    }


def _qwen3(config: dict[str, Any]) -> dict[str, Any]:
    """Qwen3: as LLaMA, with norms of queries and keys."""
    return {**_llama(config), "qk_norm": True}


def _mixtral(config: dict[str, Any]) -> dict[str, Any]:
    """Mixtral: experts in every layer."""
    experts = {
        "experts": config["num_local_experts"],
        "top_k": config["num_experts_per_tok"],
        "ffn": config["intermediate_size"],
    }
    return {**_llama(config), "moe": experts}


def _qwen3_moe(config: dict[str, Any]) -> dict[str, Any]:
    """Qwen3-MoE: experts in every layer or every so many, norms of queries and keys."""
    if config.get("mlp_only_layers"):
        raise ValueError("single layers without experts (mlp_only_layers) are not played")
    experts = {
        "experts": config["num_experts"],
        "top_k": config["num_experts_per_tok"],
        "ffn": config["moe_intermediate_size"],
        "every": config.get("decoder_sparse_step", 1),
    }
    return {**_qwen3(config), "moe": experts}


def _deepseek(config: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-V2 and -V3: latent attention, shared experts, dense layers first."""
    if config.get("moe_layer_freq", 1) != 1:
        raise ValueError("layers with and without experts alternate; desim has dense layers first")
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    width = config["moe_intermediate_size"]
    experts = {
        "experts": config["n_routed_experts"],
        "top_k": config["num_experts_per_tok"],
        "ffn": width,
        "shared_ffn": width * (config.get("n_shared_experts") or 0),
        "dense_layers": config.get("first_k_dense_replace", 0),
    }
    latent = {
        "q_rank": config.get("q_lora_rank"),
        "kv_rank": config["kv_lora_rank"],
        "nope_head_dim": nope,
        "rope_head_dim": rope,
        "value_head_dim": config["v_head_dim"],
    }
    heads = {"kv_heads": config["num_attention_heads"], "head_dim": nope + rope}
    return {**_llama(config), **heads, "moe": experts, "mla": latent}


def _gpt2(config: dict[str, Any]) -> dict[str, Any]:
    """GPT-2: layer norm, learned positions, plain MLP, biases, tied embeddings."""
    return {
        "layers": config["n_layer"],
        "hidden": config["n_embd"],
        "heads": config["n_head"],
        "kv_heads": config["n_head"],
        "head_dim": config["n_embd"] // config["n_head"],
        "ffn": config.get("n_inner") or 4 * config["n_embd"],
        "gated": False,
        "vocab": config["vocab_size"],
        "norm": "layer",
        "position": "learned",
        "max_positions": config["n_positions"],
        "bias": True,
        "tied_embeddings": bool(config.get("tie_word_embeddings", True)),
        "dropout": float(config.get("resid_pdrop", 0.1)),
    }


_READERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "MixtralForCausalLM": _mixtral,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "GPT2LMHeadModel": _gpt2,
}
#: What a configuration without `architectures` can say instead.
_ARCHITECTURE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def _refuse(node: Node, path: str, rule: str, value: object = "", hint: str = "") -> SpecError:
    given = repr(value) if value else ""
    return SpecError([Mistake(path, rule, given, hint, node.file, node.line)])
