"""`diff`: a simulated trace equals its own results, and a trace is read as it is written."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

import desim
from desim.diff.activities import Activity, summarize, union_ns
from desim.diff.names import load_names
from desim.models.op import OpKind
from tests.cli.conftest import ROOT, TINY, Cli, cli, tiny
from tests.tools.snippets import agrees, examples, run

__all__ = ["cli", "tiny"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and traces of the tiny scenario."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    result = desim.run(folder / "tiny.yaml")
    result.write(folder / "planned", report=False)
    result.write_kineto(folder / "traces")
    return folder


@pytest.fixture
def results(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in a working directory of one's own."""
    shutil.copytree(played, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("planned")


def told(cli: Cli, *arguments: str | Path) -> Any:
    said = cli("diff", *arguments, "--json")
    assert (said.code, said.err) == (0, ""), said.err
    return said.json


def sides(found: dict[str, Any]) -> list[tuple[str, float, float]]:
    step = found["step_time_s"]
    rows = [(r["name"], r["measured_s"], r["simulated_s"])
            for part in ("parts", "kernels", "collectives") for r in found[part]]  # fmt: skip
    return [("step", step["measured"], step["simulated"]), *rows]


OVERRIDES = {
    "pipeline": [],
    "fsdp": ["parallel={data: 8, zero: 3}"],
    "experts": [
        "workload.model={base: mixtral_8x7b, layers: 4}", "parallel={expert: 4, data: 8, zero: 1}",
        "workload.sequence_length=1024",
    ],
    "interleaved": ["parallel={tensor: 2, pipeline: 2, virtual_stages: 2}",
                    "policies.schedule=interleaved"],
    "two steps": ["run.steps=2"],
}  # fmt: skip


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_a_simulated_trace_equals_its_own_results(
    tiny: Path, cli: Cli, overrides: list[str]
) -> None:
    """Law: nothing differs, whatever ran, on every rank that was played (traces hold whole ns)."""
    result = desim.run(desim.load(tiny, overrides))
    result.write("planned", report=False)
    traces = result.write_kineto("traces")
    for rank_class, trace in zip(result.record.classes, traces, strict=True):
        found = told(cli, trace, "planned")
        assert found["result"]["rank"] == found["trace"]["rank"] == rank_class.representative
        assert found["unknown"] == []
        assert len(found["kernels"]) >= 4
        assert len(found["collectives"]) >= 2
        for name, measured, simulated in sides(found):
            # The step's own marks are rounded apart from the spans' ends.
            assert measured == pytest.approx(simulated, rel=0, abs=2e-9), name
        for row in (*found["kernels"], *found["collectives"]):
            assert row["measured_count"] == row["simulated_count"], row["name"]
        assert "largest differences: none" in cli("diff", trace, "planned").out


def test_parts_add_up_to_the_step_and_agree_with_the_accounting(results: Path, cli: Cli) -> None:
    found = told(cli, "traces/rank0.pt.trace.json.gz", results)
    parts = {row["name"]: row["measured_s"] for row in found["parts"]}
    assert sum(parts.values()) == pytest.approx(found["step_time_s"]["measured"], abs=1e-9)
    kernels = sum(row["measured_s"] for row in found["kernels"])
    assert parts["computing"] == pytest.approx(kernels), "one compute lane: kernels do not overlap"


def test_what_changed_is_what_differs(cli: Cli, results: Path) -> None:
    """A job whose GPU computes at half speed differs in kernels, not in what is sent."""
    slow = desim.load("tiny.yaml", ["cluster.system.device.memory_bandwidth=1.675 TB/s"])
    desim.run(slow).write_kineto("slow")
    found = told(cli, "slow/rank0.pt.trace.json.gz", results)
    ratio = {r["name"]: r["simulated_s"] / r["measured_s"] for r in found["kernels"]}
    assert ratio["elementwise"] < 0.7
    assert 0.7 < ratio["gemm"] <= 1.0
    sent = {r["name"]: (r["measured_count"], r["simulated_count"]) for r in found["collectives"]}
    assert all(measured == simulated for measured, simulated in sent.values())
    assert set(found["largest"]) >= {"elementwise"}


STEP_US = 1000


def trace_of(*kernels: tuple[str, float, float], steps: int = 2, **args: Any) -> dict[str, Any]:
    """A trace as PyTorch writes it: (name, start, length) in microseconds, launched in its step."""
    events: list[dict[str, Any]] = [
        {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{7 + n}", "ts": STEP_US * n,
         "dur": STEP_US} for n in range(steps)
    ]  # fmt: skip
    for number, (name, start, length) in enumerate(kernels):
        category = "gpu_memcpy" if name.startswith("Memcpy") else "kernel"
        events += [
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": start - 5,
             "dur": 2, "args": {"correlation": number}},
            {"ph": "X", "cat": category, "name": name, "ts": start, "dur": length,
             "args": {"correlation": number, **args}},
        ]  # fmt: skip
    return {"distributedInfo": {"rank": 0, "world_size": 8}, "traceEvents": events}


def write(trace: Any, name: str = "real.json") -> Path:
    Path(name).write_text(json.dumps(trace))
    return Path(name)


def test_a_trace_by_hand(results: Path, cli: Cli) -> None:
    """Two steps of 1 ms: expectations by hand, per step.

    gemm 10-210 and 1010-1210: 0.2 ms; norm 150-250: 0.05 ms a step, 0.02 of it alone; all-reduce
    200-500: 0.15 ms, 0.125 exposed; copy 600-610: on a copy engine, exposed.
    """
    trace = write(trace_of(
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", 10, 200),
        ("void rmsnorm_fwd_kernel<bf16>(Params)", 150, 100),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 200, 300),
        ("Memcpy HtoD (Pinned -> Device)", 600, 10),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_32x6_tn", 1010, 200),
        ("my_own_kernel", 1300, 40),
    ))  # fmt: skip
    found = told(cli, trace, results)
    assert found["step_time_s"]["measured"] == pytest.approx(1e-3)
    parts = {row["name"]: row["measured_s"] for row in found["parts"]}
    assert parts == pytest.approx(
        {"computing": (240 + 200 + 40) / 2e6, "exposed communication": 260 / 2e6,
         "idle": (2000 - 740) / 2e6}
    )  # fmt: skip
    kernels = {row["name"]: row["measured_s"] * 2e6 for row in found["kernels"]}
    assert kernels["gemm"] == pytest.approx(400)
    assert kernels["elementwise"] == pytest.approx(100)
    assert kernels["unknown"] == pytest.approx(40)
    assert found["unknown"] == [
        {"name": "my_own_kernel", "measured_s": pytest.approx(20e-6), "measured_count": 0.5}
    ]
    sent = {row["name"]: row["measured_s"] * 2e6 for row in found["collectives"]}
    assert (sent["all_reduce"], sent["host copy"]) == (pytest.approx(300), pytest.approx(10))
    out = cli("diff", trace, results).out
    assert max(map(len, out.splitlines())) <= 100
    assert "steps 7 to 8" in out
    assert "my_own_kernel" in out


def test_collectives_by_number_of_ranks_where_the_trace_says_so(results: Path, cli: Cli) -> None:
    gather = ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 20.0, 50.0)
    said = {"Collective name": "_allgather_base", "Group size": 4}
    names = [
        row["name"] for row in told(cli, write(trace_of(gather, **said)), results)["collectives"]
    ]
    assert "all_gather of 4" in names
    names = [row["name"] for row in told(cli, write(trace_of(gather)), results)["collectives"]]
    assert "all_gather" in names
    assert not any(name.startswith("all_gather of") for name in names), "and so are the simulated"


def test_all_to_all_and_messages_are_one_where_only_the_kernel_is_known(
    results: Path, cli: Cli
) -> None:
    """NCCL moves both by ncclDevKernel_SendRecv; newer traces say which it was."""
    kernel = ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", 20.0, 50.0)
    for stated, name in (({}, "send_recv or all_to_all"),
                         ({"Collective name": "all_to_allv", "Group size": 8}, "all_to_all of 8"),
                         ({"Collective name": "send", "Group size": 8}, "send_recv")):  # fmt: skip
        found = told(cli, write(trace_of(kernel, **stated)), results)
        assert {r["name"]: r["measured_s"] for r in found["collectives"]}[name] > 0


def test_kernels_belong_to_the_step_that_launched_them(results: Path, cli: Cli) -> None:
    """A GPU that lags behind still runs the first step's kernels in the second."""
    trace = trace_of(("volta_sgemm_64x64_nt", 100, 50), ("volta_sgemm_64x64_nt", 1500, 50))
    late = trace["traceEvents"][3]
    assert late["cat"] == "kernel"
    late["ts"] = 1200.0
    trace["traceEvents"].append(
        {"ph": "X", "cat": "kernel", "name": "before_all", "ts": -900, "dur": 5, "args": {}}
    )
    found = told(cli, write(trace), results)
    gemm = next(row for row in found["kernels"] if row["name"] == "gemm")
    assert (gemm["measured_count"], gemm["measured_s"]) == (1.0, pytest.approx(50e-6))
    assert "1 kernels or copies are in no step" in cli("diff", "real.json", results).out


NAMES = {
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x64_64x4_nn_align8>": "gemm",
    "nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NTT": "gemm",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1": "gemm",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "gemm",
    "Cijk_Alik_Bljk_BBS_BH_Bias_HAS_SAV_UserArgs_MT256x256x64": "gemm",
    "triton_tem_fused_mm_3": "gemm",
    "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>": "attention",
    "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90>>": "attention",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_6_128x64x64": "attention",
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80": "attention",
    "void scaled_upper_triang_masked_softmax_warp_forward<__half, __half, float, 11>": "attention",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>":
        "optimizer",
    "void multi_tensor_apply_kernel<TensorListMetadata<2>, L2NormFunctor<float>>": "optimizer",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<Copy<float, BFloat16>>":
        "copy",
    "void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda(TensorIterator&)>": "copy",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy<BFloat16, unsigned, 3>": "copy",
    "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>": "elementwise",
    "triton_poi_fused_mul_silu_7": "elementwise",
    "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_2": "elementwise",
    "void transformer_engine::normalization::rmsnorm_fwd_tuned_kernel<Traits>": "elementwise",
    "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float, float>": "elementwise",
    "void at::native::(anonymous namespace)::embedding_backward_feature_kernel<float>": "embedding",
    "void split_embedding_backward_codegen_rowwise_adagrad_unweighted_kernel": "embedding",
    "void moe_align_block_size_kernel<int>": "experts",
    "an_unheard_of_kernel": "unknown",
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_kernels_are_known_by_the_names_of_their_libraries(name: str, kind: str) -> None:
    assert load_names().kernel(name) == kind


def test_every_kind_of_desims_own_kernels_is_known() -> None:
    assert set(load_names().tables["simulated"]) == set(get_args(OpKind))


def test_union_of_what_overlaps() -> None:
    """Expectation: [0, 10], [5, 8] inside it, [9, 20] past it and [30, 31] apart make 21."""
    spans = [(0, 10), (5, 8), (9, 20), (30, 31)]
    activities = [Activity("k", "gemm", False, 0, start, end) for start, end in spans]
    assert union_ns(activities) == union_ns(activities[::-1]) == 21
    assert union_ns([]) == 0
    assert summarize(activities, 1, 1e-9 * 40, "unknown").idle_s == pytest.approx(19e-9)


def test_the_page(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    page = (ROOT / "docs" / "diff.md").read_text()
    assert len(examples(page)) == 2
    for example, printed in run(page, tmp_path):
        if example.printed is not None:
            assert agrees(printed, example.printed.text), printed


def gzipped(text: str) -> bytes:
    return gzip.compress(text.encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "real.json:1: is no JSON"),
        (b"hello", "real.json:1: is no JSON"),
        (b"[1, 2", "ends in the middle: it is cut off; copy it again"),
        (b'{"traceEvents": [{"ph": "X"}, {"ph"', "ends in the middle"),
        (gzipped(json.dumps(trace_of(("gemm", 10, 1))))[:-40], "is cut off or damaged gzip"),
        (b"\x1f\x8bnot gzip at all", "is cut off or damaged gzip"),
        (b"\xff\xfe\x00", "real.json: is no JSON"),
        (b"{}", "is no trace: it holds no list `traceEvents`"),
        (b'{"traceEvents": 3}', "is no trace"),
        (
            b'{"traceEvents": [{"ph": "X", "cat": "kernel", "ts": "1", "dur": null}]}',
            "no kernel of",
        ),
        (json.dumps(trace_of()).encode(), "holds no kernel of a GPU; profile with"),
        (json.dumps(trace_of(("gemm", 10, 1), steps=0)).encode(), "holds no step (ProfilerStep#N)"),
        (json.dumps(trace_of(("gemm", 9000, 1))).encode(), "no kernel that was launched within"),
    ],
)
def test_traces_that_are_refused(results: Path, cli: Cli, content: bytes, words: str) -> None:
    Path("real.json").write_bytes(content)
    said = cli("diff", "real.json", results)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.json", "planned"], "none.json: does not exist"),
        ([".", "planned"], ".: is a folder; name the trace of one rank in it"),
        (["traces/rank0.pt.trace.json.gz", "none"], "none: does not exist"),
        (["traces/rank0.pt.trace.json.gz", "tiny.yaml"], "tiny.yaml: is no folder"),
        (["traces/rank0.pt.trace.json.gz", "traces"],
         "traces: holds no summary.json and no record.parquet; write it by"),
        (["traces/rank0.pt.trace.json.gz", "planned", "--rank", "3"],
         "--rank: was not played (got 3); played, each for all that behave like it: 0, 4"),
    ],
)  # fmt: skip
def test_arguments_that_are_refused(
    results: Path, cli: Cli, arguments: list[str], words: str
) -> None:
    said = cli("diff", *arguments)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("summary.json", b"{", "summary.json: is no JSON"),
        ("summary.json", b"[]", "is no summary of a run"),
        ("record.parquet", b"PAR1", "record.parquet: is no table of spans"),
    ],
)
def test_results_that_are_damaged(
    results: Path, cli: Cli, name: str, content: bytes, words: str
) -> None:
    (results / name).write_bytes(content)
    said = cli("diff", "traces/rank0.pt.trace.json.gz", results)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_another_rank_can_be_chosen(results: Path, cli: Cli) -> None:
    trace = "traces/rank0.pt.trace.json.gz"
    found = told(cli, trace, results, "--rank", "4")
    assert found["result"]["rank"] == 4
    assert any(measured != simulated for _, measured, simulated in sides(found))
    data = json.loads(gzip.decompress(Path(trace).read_bytes()))
    data["distributedInfo"]["rank"] = 6
    assert told(cli, write(data), results)["result"]["rank"] == 4, "the stage of rank 6"
