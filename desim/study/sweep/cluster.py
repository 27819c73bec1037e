"""Points on the workers of a Dask cluster, which the optional extra `cluster` is for."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.plan.load import load_scenario
from desim.study.sweep.journal import Finished
from desim.study.sweep.play import play

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.study.sweep.play import PointSource

_CONNECT_S = 10
_WORKERS_S = 30
#: Points handed to the scheduler at a time: enough for thousands of workers.
_AHEAD = 4096


class Cluster:
    """A connection to a scheduler; raises SpecError where there is none to be had."""

    def __init__(self, address: str) -> None:
        distributed = _distributed()
        self._as_completed: Any = distributed.as_completed
        try:
            self._client: Any = distributed.Client(address, timeout=_CONNECT_S)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _refused(f"no Dask scheduler answers: {reason}", address) from None
        try:
            self._require_workers(address)
        except BaseException:
            self.close()
            raise

    def _require_workers(self, address: str) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            rule = f"the scheduler has had no worker for {_WORKERS_S} s"
            raise _refused(rule, address, f"start one: dask worker {address}") from None
        try:
            found = set(self._client.run(version, "desim").values())
        except Exception as error:
            rule = f"a worker has no desim ({type(error).__name__}: {error})"
            raise _refused(rule, address, "install the same desim on every worker") from None
        if found - {version("desim")}:
            rule = f"workers have desim {', '.join(sorted(found))}, and this is {version('desim')}"
            raise _refused(rule, address, "install the same desim on every worker")

    def close(self) -> None:
        """Let go of the scheduler; what it has not started is not played."""
        self._client.close()

    def play(
        self, sources: Sequence[PointSource], finished: Callable[[int, Finished], None]
    ) -> None:
        """Play points and say of each what came of it as soon as it has ended.

        The scheduler gives points of a worker that is lost to another; one that has killed several
        is lost.
        """
        ahead = iter(enumerate(sources))
        numbers: dict[Any, int] = {}
        done = self._as_completed()

        def submit() -> None:
            number, source = next(ahead, (-1, None))
            if source is not None:
                scenario = load_scenario(source.base, source.overrides).scenario
                future = self._client.submit(play, scenario, pure=False)
                numbers[future] = number
                done.add(future)

        for _ in range(min(_AHEAD, len(sources))):
            submit()
        for future in done:
            finished(numbers.pop(future), _result(future))
            submit()


def _result(future: Any) -> Finished:
    """What came of a point; a worker's end is no result of it."""
    if future.status == "finished":
        result: Finished = future.result()
        return result
    if future.status == "cancelled":
        return Finished({}, "the connection to the scheduler was lost", again=True)
    error = future.exception()
    return Finished({}, f"its worker was lost: {type(error).__name__}: {error}", again=True)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        rule = "needs the package distributed, which is not installed"
        hint = 'python -m pip install "desim[cluster]"'
        raise SpecError([Mistake("--cluster", rule, hint=hint)]) from None
    return distributed


def _refused(rule: str, address: str, hint: str = "") -> SpecError:
    return SpecError([Mistake("--cluster", rule, address, hint)])
