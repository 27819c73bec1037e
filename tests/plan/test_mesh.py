"""The mesh: coordinates, groups and neighbours; and which layers each stage holds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.plan.build import make_context
from desim.plan.mesh import Mesh, build_mesh
from desim.plan.pipeline_step import stage_chunks
from tests.jobs import BASE, job

AXES = ("tp", "cp", "ep", "dp", "pp")
MESHES = st.builds(
    Mesh,
    st.permutations(AXES).map(tuple),
    st.fixed_dictionaries({axis: st.sampled_from([1, 2, 3, 4]) for axis in AXES}),
)


@given(MESHES)
def test_coordinates_name_each_rank_once(mesh: Mesh) -> None:
    places = {tuple(mesh.describe(rank)[axis] for axis in AXES) for rank in range(mesh.num_ranks)}
    assert len(places) == mesh.num_ranks
    for axis in AXES:
        column = mesh.coordinate(axis)
        assert [mesh.describe(rank)[axis] for rank in range(mesh.num_ranks)] == column.tolist()


@given(MESHES)
def test_groups_differ_along_their_axes_only(mesh: Mesh) -> None:
    for axes in [*[(axis,) for axis in AXES], *combinations(AXES, 2)]:
        rows = mesh.groups(*axes)
        assert sorted(rows.ravel().tolist()) == list(range(mesh.num_ranks))
        assert (np.diff(rows, axis=1) > 0).all()
        for axis in AXES:
            column = mesh.coordinate(axis)[rows]
            kinds = {len(set(row.tolist())) for row in column}
            assert kinds == ({mesh.sizes[axis]} if axis in axes else {1})


@given(MESHES)
def test_neighbours_go_round(mesh: Mesh) -> None:
    for axis in AXES:
        onward, back = mesh.neighbour(axis, 1), mesh.neighbour(axis, -1)
        assert (back[onward] == np.arange(mesh.num_ranks)).all()
        here = mesh.coordinate(axis)
        assert (mesh.coordinate(axis)[onward] == (here + 1) % mesh.sizes[axis]).all()
        for other in AXES:
            if other != axis:
                column = mesh.coordinate(other)
                assert (column[onward] == column).all()


def test_default_order_is_that_of_megatron() -> None:
    """Tensor ranks are neighbours; stages are half the job apart."""
    mesh = build_mesh(job(cluster__devices=16, parallel={"tensor": 2, "pipeline": 2}).parallel)
    assert mesh.groups("tp")[:2].tolist() == [[0, 1], [2, 3]]
    assert mesh.groups("dp")[0].tolist() == [0, 2, 4, 6]
    assert mesh.groups("pp")[0].tolist() == [0, 8]
    assert mesh.neighbour("pp", 1)[:2].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("parallel", "schedule", "held"),
    [
        ({"pipeline": 2}, "1f1b", [[[0, 1, 2]], [[3, 4, 5]]]),
        ({"pipeline": 2, "stage_layers": [1, 3]}, "1f1b", [[[0, 1]], [[2, 3, 4, 5]]]),
        (
            {"pipeline": 2, "virtual_stages": 2},
            "interleaved",
            [[[0, 1], [3]], [[2], [4, 5]]],
        ),
    ],
)
def test_layers_of_stages(
    parallel: dict[str, object], schedule: str, held: list[list[list[int]]]
) -> None:
    """Layer 0 is the embedding, 5 the head; chunk q stands on stage q mod p."""
    assert BASE["workload"]["model"]["layers"] == 4
    context = make_context(job(parallel=parallel, policies__schedule=schedule))
    numbers = [
        [[number for number, _ in chunk] for chunk in stage] for stage in stage_chunks(context)
    ]
    assert numbers == held
