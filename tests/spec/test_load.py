"""Loading: catalogues, overrides, imports and the way back to YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.errors import SpecError
from desim.spec.dump import dump_scenario
from desim.spec.load import load_scenario
from desim.spec.scenario import Scenario
from tests.spec.conftest import BASE, Load, Refuse

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_shipped_scenarios_load_and_round_trip(file: Path, tmp_path: Path) -> None:
    loaded = load_scenario(file)
    # LLaMA-65B recomputes core attention although its attention is fused, and is told so.
    assert [note.split(":")[0] for note in loaded.notes] in ([], ["policies.recompute"])
    assert loaded.scenario.name == file.stem
    assert again(loaded.scenario, tmp_path) == loaded.scenario


def again(scenario: Scenario, folder: Path) -> Scenario:
    file = folder / "again.yaml"
    file.write_text(dump_scenario(scenario), encoding="utf-8")
    return load_scenario(file).scenario


_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(min_size=1, max_size=20),
        "policies": st.fixed_dictionaries(
            {},
            optional={
                "recompute": st.sampled_from(["none", "selective", "full"]),
                "bucket": st.floats(1, 1e12).map(lambda x: f"{x!r} B"),
                "split_p2p": st.booleans(),
                "sync": st.sampled_from(["grad_norm", "step", "none"]),
            },
        ),
        "kernels": st.fixed_dictionaries(
            {}, optional={"launch": st.floats(0, 1).map(lambda x: f"{x!r} s")}
        ),
        "run": st.fixed_dictionaries(
            {}, optional={"seed": st.integers(0, 2**70), "fold": st.sampled_from(["auto", False])}
        ),
        "disturb": st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {"device": st.integers(0, 63), "compute": st.floats(1e-9, 1)}
                ),
                st.fixed_dictionaries(
                    {"link": st.text(max_size=12), "bandwidth": st.floats(1e-9, 1)}
                ),
                st.fixed_dictionaries({"jitter": st.floats(1e-12, 1)}),
            ),
            max_size=3,
        ),
    },
)
_MAPPING = {
    "name": "small",
    "workload": {
        "model": "llama2_7b", "sequence_length": 4096, "global_batch": 64, "micro_batch": 1
    },
    "cluster": {"system": "dgx_h100_ndr400", "devices": 64},
    "parallel": {"tensor": 2, "pipeline": 4},
}  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(changes=_CHANGES)
def test_every_scenario_round_trips(
    changes: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    scenario = load_scenario({**_MAPPING, **changes}).scenario
    assert again(scenario, tmp_path_factory.mktemp("dump")) == scenario


def test_overrides_reach_below_names(load: Load) -> None:
    scenario = load(
        "workload.model.layers=40",
        "cluster.system.device.peak.bf16=500 TFLOPS",
        "cluster.system.fabric.nic=200 Gbps",
        "disturb=[{device: 17, compute: 0.8}]",
        "disturb.0.compute=0.5",
        "policies.overlap.tensor=none",
        "policies.collectives=auto",
    ).scenario
    assert scenario.workload.model.layers == 40
    assert scenario.workload.model.hidden == 4096
    device = scenario.cluster.system.device
    assert device.peak_flops_per_s["bf16"] == 500e12
    assert device.peak_flops_per_s["fp8"] == 1978.9e12
    assert scenario.cluster.system.fabric.nic_bytes_per_s == 25e9
    assert scenario.disturb[0].compute == 0.5
    assert scenario.policies.overlap.tensor == "none"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("paralel.tensor=3", "did you mean 'parallel.tensor'?"),
        ("parallel.tenser=3", "did you mean 'parallel.tensor'?"),
        ("workload.model.layer=3", "did you mean 'workload.model.layers'?"),
        ("name.x=3", "nothing is below it"),
        ("disturb.0.compute=0.5", "the list has 0 entries"),
        ("parallel.tensor", "must be PATH=VALUE"),
        ("=3", "must be PATH=VALUE"),
        ("parallel.tensor=", "needs a value"),
        ("parallel.tensor=[", "is not valid YAML"),
    ],
)
def test_overrides_that_cannot_be_followed(refuse: Refuse, override: str, words: str) -> None:
    mistakes = refuse(override)
    assert len(mistakes) == 1
    assert words in str(mistakes[0])
    assert mistakes[0].file == f"--set {override}"


def test_one_number_of_a_catalogue_entry_is_varied_in_the_scenario(load: Load) -> None:
    system = """\
  system:
    base: dgx_h100_ndr400
    fabric: {base: ib_hdr200, radix: 32}
    device: {power: 350 W}
"""
    text = BASE.replace("  system: dgx_h100_ndr400\n", system)
    varied = load(text=text).scenario.cluster.system
    assert varied.fabric.radix == 32
    assert varied.fabric.nic_bytes_per_s == 25e9
    assert varied.device.power_w == 350
    assert varied.device.sms == 132


def test_another_name_replaces_the_whole_entry(load: Load) -> None:
    text = BASE.replace(
        "  system: dgx_h100_ndr400\n", "  system: {base: dgx_h100_ndr400, fabric: roce_400}\n"
    )
    assert load(text=text).scenario.cluster.system.fabric.name == "RoCE 400 Gb/s"


def test_names_are_found_beside_the_scenario_first(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "workloads").mkdir()
    own = (ROOT / "workloads" / "llama2_7b.yaml").read_text().replace("layers: 32", "layers: 16")
    (tmp_path / "workloads" / "llama2_7b.yaml").write_text(own)
    (folder / "mine.yaml").write_text(own.replace("layers: 16", "layers: 8"))
    (folder / "job.yaml").write_text(BASE)
    assert load_scenario(folder / "job.yaml").scenario.workload.model.layers == 16
    (folder / "job.yaml").write_text(BASE.replace("llama2_7b", "./mine.yaml"))
    assert load_scenario(folder / "job.yaml").scenario.workload.model.layers == 8


def test_catalogues_are_found_from_any_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load().scenario.cluster.system.device.name == "H100-SXM-80GB"


def test_names_that_refer_to_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: ./a.yaml\nlayers: 3\n")
    (tmp_path / "job.yaml").write_text(BASE.replace("llama2_7b", "./a.yaml"))
    with pytest.raises(SpecError, match="refer to each other"):
        load_scenario(tmp_path / "job.yaml")


def test_a_mistake_in_a_catalogue_file_names_that_file(tmp_path: Path) -> None:
    text = (ROOT / "workloads" / "llama2_7b.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("hidden: 4096", "hidden: 0"))
    (tmp_path / "job.yaml").write_text(BASE.replace("llama2_7b", "./mine.yaml"))
    with pytest.raises(SpecError) as caught:
        load_scenario(tmp_path / "job.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.file.endswith("mine.yaml")
    assert mistake.line == text.splitlines().index("hidden: 4096") + 1


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


def test_a_hugging_face_configuration_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_LLAMA))
    (tmp_path / "job.yaml").write_text(BASE.replace("llama2_7b", "config.json"))
    imported = load_scenario(tmp_path / "job.yaml").scenario.workload.model
    shipped = load_scenario(_MAPPING).scenario.workload.model
    differing = {"name": imported.name, "source": imported.source}
    assert shipped.model_copy(update=differing) == imported


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["FalconForCausalLM"]}, "supported: LlamaForCausalLM"),
        ({"hidden_size": None}, "cannot be imported"),
        ({"num_attention_heads": 0}, "cannot be imported"),
        ({"attention_bias": True}, "attention_bias and mlp_bias differ"),
    ],
)
def test_a_configuration_that_cannot_be_imported(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**_LLAMA, **change}))
    (tmp_path / "job.yaml").write_text(BASE.replace("llama2_7b", "config.json"))
    with pytest.raises(SpecError) as caught:
        load_scenario(tmp_path / "job.yaml")
    assert len(caught.value.mistakes) == 1
    assert words in str(caught.value)
