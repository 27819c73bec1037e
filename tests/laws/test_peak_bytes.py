"""Laws of peak memory: closed forms of the fixed part and of the moments that can be the peak."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import desim
from desim.plan.build import build_programs, make_context
from desim.plan.ledger import Ledger

SIZES = {"hidden": 1024, "heads": 8, "kv_heads": 4, "head_dim": 128, "ffn": 2816}
MIB = 2.0**20


def ledgers(
    vocab: int = 32768, layers: int = 4, micro_batch: int = 1, **changes: Any
) -> tuple[Ledger, ...]:
    """Ledgers of the stages of a small Llama on eight B200."""
    model = {"family": "transformer", "name": "llama", "source": "test", "layers": layers,
             "gated": True, "vocab": vocab, **SIZES}  # fmt: skip
    mapping = {
        "name": "peak",
        "workload": {"model": model, "sequence_length": 4096, "global_batch": 64 * micro_batch,
                     "micro_batch": micro_batch},
        "cluster": {"system": "dgx_b200_ndr400", "devices": 8},
        **changes,
    }  # fmt: skip
    return build_programs(make_context(desim.load(mapping)))[1]


def at_peak(ledger: Ledger) -> dict[str, float]:
    column = ledger.by_owner[:, ledger.peak_index]
    return dict(zip(ledger.owners, column.tolist(), strict=True))


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_backward_pass_of_the_head(tensor: int) -> None:
    """With a large vocabulary it is the peak: gradient of the logits, a placeholder for the
    weight's gradient, the input's gradient; under sequence parallelism the gathered input and the
    reduced gradient too. All that the blocks saved is still there."""
    (ledger,) = ledgers(vocab=131072, parallel={"tensor": tensor, "sequence": True})
    hidden, tokens = SIZES["hidden"], 4096
    logits = 2 * tokens * 131072 / tensor
    table = 2 * hidden * 131072 / tensor
    whole = 2 * tokens * hidden
    beside = logits + table + whole + (whole + whole / tensor if tensor > 1 else 0)
    assert at_peak(ledger)["workspace"] == pytest.approx(beside, rel=1e-12)


def test_backward_pass_of_the_last_activation() -> None:
    """On a stage without head: the gradients of SwiGLU's result and input, and of the stream."""
    first, *_ = ledgers(layers=8, parallel={"pipeline": 4})
    found = at_peak(first)
    assert found["workspace"] == 4096 * 2 * (3 * SIZES["ffn"] + SIZES["hidden"])


def test_placeholder_gradients_by_version() -> None:
    """Transformer Engine 2.3 and later keep one for each of the four shapes of weights."""
    hidden, ffn = SIZES["hidden"], SIZES["ffn"]
    shapes = hidden * (8 + 2 * 4) * 128 + hidden * 1024 + hidden * 2 * ffn + ffn * hidden
    for version, kept in (("2.2", 0), ("2.3", 2 * shapes), ("2.11", 2 * shapes)):
        (ledger,) = ledgers(kernels={"fusion": "te", "te_version": version})
        assert at_peak(ledger)["library buffers"] == 64 * MIB + kept
    (eager,) = ledgers(kernels={"fusion": "eager"})
    assert at_peak(eager)["library buffers"] == 32 * MIB


@given(
    micro_batch=st.integers(1, 4),
    recompute=st.sampled_from(["none", "selective", "per_op", "full"]),
    fusion=st.sampled_from(["te", "eager", "compile", "apex"]),
)
def test_more_samples_take_more_memory(micro_batch: int, recompute: str, fusion: str) -> None:
    sizes = [
        ledgers(
            micro_batch=count,
            layers=2,
            policies={"recompute": recompute},
            kernels={"fusion": fusion},
        )[0].peak_bytes
        for count in (micro_batch, micro_batch + 1)
    ]
    assert sizes[1] > sizes[0]
