"""Every policy says what switches it on in the frameworks, and the table names no other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from desim.spec.base import Spec
from desim.spec.flags import ALL, FLAGS, NONE, NUMBER
from desim.spec.orders import Custom
from desim.spec.policy import Policies

#: What a switch may begin with: whose it is.
FRAMEWORKS = (
    "Megatron-LM", "PyTorch", "DeepSpeed", "torchtitan", "Transformer Engine", "NCCL", "CUDA_",
    "InternEvo", "Tutel", "deepseek-ai/", "sail-sg/", NONE,
)  # fmt: skip


def fields(path: str, spec: type[Spec]) -> Iterator[tuple[str, Any]]:
    """Every field of a section and of those below it, with its type."""
    hints = get_type_hints(spec, include_extras=True)
    for name, field in spec.model_fields.items():
        here, hint = f"{path}.{field.alias or name}", hints[name]
        if isinstance(hint, type) and issubclass(hint, Spec):
            yield from fields(here, hint)
        else:
            yield here, hint


FIELDS = dict(fields("policies", Policies))


def choices(hint: Any) -> set[str]:
    """What a type names: its words, truth values, and whether it may be a number."""
    if hint is bool:
        return {"true", "false"}
    if hint in (int, float):
        return {NUMBER}
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return set(parts)
    if origin is Annotated:
        return choices(parts[0])
    if origin is tuple or origin in (Union, UnionType):
        return {choice for part in parts for choice in choices(part)}
    return set()


def test_every_policy_has_an_entry_and_every_entry_is_a_policy() -> None:
    assert set(FLAGS) == set(FIELDS)
    assert FIELDS["policies.custom"] == Custom | None


@pytest.mark.parametrize("path", FLAGS)
def test_choices_exist_and_say_something(path: str) -> None:
    switches = FLAGS[path]
    assert switches
    assert set(switches) <= choices(FIELDS[path]) | {ALL}
    assert ALL not in switches or len(switches) == 1
    for flags in switches.values():
        assert flags
        for flag in flags:
            assert flag.startswith(FRAMEWORKS)
            assert flag.isascii()
            assert flag.count("(") == flag.count(")")


def test_every_schedule_has_an_entry() -> None:
    assert set(FLAGS["policies.schedule"]) == choices(FIELDS["policies.schedule"])


def test_flags_of_megatron_and_switches_of_torchtitan_carry_a_version() -> None:
    """A flag by name has a first version; what has none is a default or the lack of a flag."""
    named = [flag for s in FLAGS.values() for flags in s.values() for flag in flags]
    for flag in named:
        if re.match(r"Megatron-LM --|torchtitan \w+\.\w+|DeepSpeed zero_optimization", flag):
            assert re.search(r"\((Core |PyTorch )?\d+\.\d+", flag) or "--clip-grad 0" in flag


def test_a_run_does_not_import_the_table() -> None:
    program = "import sys, desim.api; sys.exit(any('spec.flags' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
