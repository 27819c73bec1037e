"""desim: a discrete-event simulator of the clusters that train large models.

A scenario in, a result out:

    import desim

    scenario = desim.load("scenarios/llama70b_2048.yaml", ["policies.schedule=gpipe"])
    result = desim.run(scenario)
    print(result.summary["step_time_s"])
    result.spans.groupby("lane", observed=True).duration_s.sum()
    result.write("traces_out/mine")
"""

from desim.api import Result, load, run
from desim.errors import DeadlockError, DesimError, Mistake, SpecError

__all__ = ["DeadlockError", "DesimError", "Mistake", "Result", "SpecError", "load", "run"]
