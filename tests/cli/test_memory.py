"""Out of memory: played, loudly warned of, and refused only where `--strict-memory` asks."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli, files

SMALL_DEVICE = ("--set", "cluster.system.device.memory=200 MiB", "--no-trace", "--no-report")


def test_it_still_simulates(tiny: Path, cli: Cli) -> None:
    said = cli(tiny, *SMALL_DEVICE)
    assert said.code == 0
    assert "DOES NOT FIT" in said.out
    assert said.err.startswith("WARNING: out of memory: stage 0 (rank 0) needs ")
    assert files(Path("traces_out/tiny")) == ["scenario.resolved.yaml", "summary.json"]


def test_the_warning_says_whose_it_is_and_what_would_fit(tiny: Path, cli: Cli) -> None:
    peak = cli("check", tiny, "--json").json["needed_memory_bytes"]["0"]
    little = f"cluster.system.device.memory={int(peak) - 1000} B"
    said = cli(tiny, *SMALL_DEVICE, "--json", "--set", little)
    assert said.json["fits"] is False
    (warning,) = said.json["warnings"]
    for owner in ("optimizer 99.02 MiB", "library buffers 80 MiB", "activations 76.08 MiB"):
        assert owner in warning
    assert "1000 B more than the device holds" in warning
    assert "would fit (saves " in warning
    assert said.err == f"WARNING: {warning}\n"


def test_strict_memory(tiny: Path, cli: Cli) -> None:
    assert cli(tiny, "--strict-memory", "--quiet", "--no-trace", "--no-report").code == 0
    said = cli(tiny, *SMALL_DEVICE, "--strict-memory", "--quiet")
    assert said.code == 2
    assert said.out == ""
    assert "WARNING: out of memory" in said.err


def test_check_says_it_beforehand(tiny: Path, cli: Cli) -> None:
    memory = ("--set", "cluster.system.device.memory=200 MiB")
    assert "DOES NOT FIT" in cli("check", tiny, *memory).out
    assert cli("check", tiny, *memory, "--json").json["fits"] is False
    assert cli("check", tiny, "--json").json["fits"] is True
