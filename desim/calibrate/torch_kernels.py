"""The kernels of the cases as calls of PyTorch on random data.

Only the files named `torch_*` import torch, which is an optional extra (`desim[calibrate]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from desim.calibrate.bench import NotPossible
from desim.calibrate.cases import BOTH, HOST_COPY, TO_HOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.calibrate.cases import Case
    from desim.models.op import Op

    Run = Callable[[], object]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_BACKENDS = {"flash2": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
_WIDTH, _VOCABULARY, _HEAD_DIM = 4096, 32768, 128
_ATEN = torch.ops.aten


def prepare(case: Case, device: torch.device) -> Run:
    """Return a call that launches the case's kernel; raises NotPossible where there is none."""
    op = case.op
    if op.kind == "gemm":
        return _gemm(op, device)
    if op.kind == "attention":
        return _attention(op, case.backend, device)
    if op.kind == HOST_COPY:
        return _host_copy(op, device)
    if op.name not in _STREAMS:
        raise NotPossible(f"no kernel is called {op.name}")
    return _STREAMS[op.name](op.shape[0], device)


def _random(*shape: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    return torch.randn(*shape, device=device, dtype=dtype)


def _dtype(op: Op) -> torch.dtype:
    if op.dtype not in _DTYPES:
        raise NotPossible(f"{op.name} {op.dtype} {op.variant}: PyTorch has no such kernel")
    return _DTYPES[op.dtype]


def _gemm(op: Op, device: torch.device) -> Run:
    """Row-major operands as a linear layer has them: y = x W', dx = dy W, dW = dy' x."""
    m, n, k = op.shape
    adds = op.write_bytes >= 4.0 * m * n
    if op.dtype == "fp8" and not adds:
        return _fp8_gemm(m, n, k, device)
    dtype = _dtype(op)
    shapes = {"forward": ((m, k), (n, k)), "dgrad": ((m, k), (k, n)), "wgrad": ((k, m), (k, n))}
    first, second = (_random(*s, device=device, dtype=dtype) for s in shapes[op.variant])
    one = first.t() if op.variant == "wgrad" else first
    other = second.t() if op.variant == "forward" else second
    if adds:
        main = _random(m, n, device=device, dtype=torch.float32)
        # PyTorch 2.12 and later; older ones have no such kernel and the case is left out.
        return lambda: torch.addmm(main, one, other, out_dtype=torch.float32, out=main)
    out = torch.empty(m, n, device=device, dtype=dtype)
    return lambda: torch.mm(one, other, out=out)


def _fp8_gemm(m: int, n: int, k: int, device: torch.device) -> Run:
    """Both operands contiguous along k, one scale each, bf16 output."""
    first = _random(m, k, device=device).to(torch.float8_e4m3fn)
    second = _random(n, k, device=device).to(torch.float8_e4m3fn).t()
    scale = torch.ones((), device=device)
    return lambda: torch._scaled_mm(
        first, second, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16
    )


def _attention(op: Op, backend: str, device: torch.device) -> Run:
    """Tensors lie as (sequence, heads, dim), as the projections write them."""
    if backend not in _BACKENDS:
        raise NotPossible(f"PyTorch has no {backend} attention")
    batch, heads, kv_heads, queries, keys, dim = op.shape
    dtype = _dtype(op)

    def tensor(length: int, count: int) -> Any:
        made = _random(batch, length, count, dim, device=device, dtype=dtype)
        return made.transpose(1, 2).requires_grad_(op.variant == "backward")

    query, key, value = tensor(queries, heads), tensor(keys, kv_heads), tensor(keys, kv_heads)
    square = 4.0 * batch * heads * queries * keys * dim
    causal = op.flops < 0.75 * square * (2.5 if op.variant == "backward" else 1.0)

    def forward() -> Any:
        with sdpa_kernel(_BACKENDS[backend]):
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=heads != kv_heads
            )

    if op.variant == "forward":
        return forward
    result = forward()
    gradient = torch.randn_like(result)
    inputs = (query, key, value)
    return lambda: torch.autograd.grad(result, inputs, gradient, retain_graph=True)


def _host_copy(op: Op, device: torch.device) -> Run:
    """Pinned memory on the host; both ways at once on two streams that the caller's one joins."""
    (size,) = op.shape
    host = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    near = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
    if op.variant == TO_HOST:
        return lambda: host[0].copy_(near[0], non_blocking=True)
    if op.variant != BOTH:
        return lambda: near[0].copy_(host[0], non_blocking=True)
    streams = [torch.cuda.Stream(device) for _ in range(2)]

    def both() -> None:
        caller = torch.cuda.current_stream(device)
        for stream, target, source in zip(
            streams, (near[0], host[1]), (host[0], near[1]), strict=True
        ):
            stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
        for stream in streams:
            caller.wait_stream(stream)

    return both


def _norm(elements: int, device: torch.device) -> Run:
    x, scale = _random(elements // _WIDTH, _WIDTH, device=device), _random(_WIDTH, device=device)
    return lambda: functional.layer_norm(x, (_WIDTH,), scale, scale)


def _norm_backward(mask: list[bool]) -> Callable[[int, torch.device], Run]:
    def make(elements: int, device: torch.device) -> Run:
        x = _random(elements // _WIDTH, _WIDTH, device=device)
        gradient, scale = torch.randn_like(x), _random(_WIDTH, device=device)
        _, mean, inverse = torch.native_layer_norm(x, (_WIDTH,), scale, scale, 1e-5)
        return lambda: _ATEN.native_layer_norm_backward(
            gradient, x, [_WIDTH], mean, inverse, scale, scale, mask
        )

    return make


def _unary(
    call: Callable[[Any], object], dtype: torch.dtype = torch.bfloat16, width: int = _WIDTH
) -> Any:
    def make(elements: int, device: torch.device) -> Run:
        x = _random(elements // width, width, device=device, dtype=dtype)
        return lambda: call(x)

    return make


def _binary(
    call: Callable[[Any, Any], object], dtype: torch.dtype = torch.bfloat16, width: int = _WIDTH
) -> Any:
    def make(elements: int, device: torch.device) -> Run:
        x = _random(elements // width, width, device=device, dtype=dtype)
        y = torch.randn_like(x)
        return lambda: call(x, y)

    return make


def _rotary(elements: int, device: torch.device) -> Run:
    """The product with cosines that all heads share: the traffic of one pass."""
    x = _random(elements // _WIDTH, _WIDTH // _HEAD_DIM, _HEAD_DIM, device=device)
    cosines = _random(elements // _WIDTH, 1, _HEAD_DIM, device=device)
    return lambda: x * cosines


def _embedding(elements: int, device: torch.device) -> Run:
    table = _random(_VOCABULARY, _WIDTH, device=device)
    tokens = torch.randint(_VOCABULARY, (elements // _WIDTH,), device=device)
    return lambda: functional.embedding(tokens, table)


def _permute(elements: int, device: torch.device) -> Run:
    x = _random(elements // _WIDTH, _WIDTH, device=device)
    order = torch.randperm(elements // _WIDTH, device=device)
    return lambda: torch.index_select(x, 0, order)


def _optimizer(elements: int, device: torch.device) -> Run:
    tensors = [[torch.rand(elements, device=device)] for _ in range(4)]
    step = [torch.ones((), device=device)]
    rates = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "eps": 1e-8}
    return lambda: _ATEN._fused_adamw_(*tensors, [], step, **rates, amsgrad=False, maximize=False)


_FP32, _BF16 = torch.float32, torch.bfloat16
_STREAMS: dict[str, Callable[[int, torch.device], Run]] = {
    "norm": _norm,
    "norm_dx": _norm_backward([True, False, False]),
    "norm_dgamma": _norm_backward([False, True, True]),
    "activation": _unary(lambda x: functional.gelu(x, approximate="tanh")),
    "activation_dx": _binary(lambda x, y: _ATEN.gelu_backward(x, y, approximate="tanh")),
    "residual": _binary(torch.add),
    "rotary": _rotary,
    "softmax": _unary(lambda x: torch.softmax(x, -1)),
    "softmax_dx": _binary(lambda x, y: _ATEN._softmax_backward_data(x, y, -1, _BF16)),
    "dropout": _unary(lambda x: _ATEN.native_dropout(x, 0.1, True)),
    "cross_entropy": _unary(lambda x: torch.log_softmax(x, -1), _FP32, _VOCABULARY),
    "cross_entropy_dx": _binary(
        lambda x, y: _ATEN._log_softmax_backward_data(x, y, -1, _FP32), _FP32, _VOCABULARY
    ),
    "embedding": _embedding,
    "permute": _permute,
    "cast_to_fp32": _unary(lambda x: x.to(_FP32)),
    "cast_from_fp32": _unary(lambda x: x.to(_BF16), _FP32),
    "copy": _unary(torch.clone),
    "clear": _unary(torch.Tensor.zero_, _FP32),
    "optimizer": _optimizer,
    "grad_norm": _unary(torch.linalg.vector_norm, _FP32),
}
