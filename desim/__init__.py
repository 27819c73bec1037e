"""desim: a discrete-event simulator of the clusters that train large models.

A scenario in, a result out:

    import desim

    scenario = desim.load("scenarios/llama70b_2048.yaml", ["policies.schedule=gpipe"])
    result = desim.run(scenario)
    print(result.summary["step_time_s"])
    result.spans.groupby("lane", observed=True).duration_s.sum()
    result.write("traces_out/mine")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from desim.errors import DeadlockError, DesimError, Mistake, SpecError

if TYPE_CHECKING:
    from desim.api import Result, load, run
    from desim.study.compare.comparison import compare
    from desim.study.sweep.run import sweep

__all__ = [
    "DeadlockError",
    "DesimError",
    "Mistake",
    "Result",
    "SpecError",
    "compare",
    "load",
    "run",
    "sweep",
]

#: What is imported once it is asked for, so that a command pays for what it uses alone.
_LATER = {
    "Result": "desim.api",
    "load": "desim.api",
    "run": "desim.api",
    "compare": "desim.study.compare.comparison",
    "sweep": "desim.study.sweep.run",
}


def __getattr__(name: str) -> Any:
    """Return what is imported only when it is used (PEP 562)."""
    if name == "api":
        return import_module("desim.api")
    if name not in _LATER:
        raise AttributeError(f"module 'desim' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
