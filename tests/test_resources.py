"""Room for workers, node by node, and what is reported where there is none."""

from __future__ import annotations

import pytest

from ray_unlearn.errors import StudyError
from ray_unlearn.schedule.resources import Needs, check_share, waiting_line


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "expected"),
    [
        (1, 0, {"CPU": 4}, 4),
        (3, 0, {"CPU": 8}, 2),
        (1, 1, {"CPU": 8, "GPU": 2}, 2),
        (1, 1, {"CPU": 8}, 0),
        (1, 2, {"CPU": 8, "GPU": 3}, 1),
        (1, 0.25, {"CPU": 8, "GPU": 2}, 8),
        (1, 0.25, {"CPU": 3, "GPU": 2}, 3),
        (1, 0.6, {"CPU": 8, "GPU": 2}, 2),
        (1, 0.3, {"CPU": 8, "GPU": 1}, 3),
        (1, 0.1, {"CPU": 64, "GPU": 1}, 10),
        (1, 0.3333, {"CPU": 8, "GPU": 1}, 3),
        (2, 1, {}, 0),
    ],
)
def test_a_node_holds_whole_workers(cpus, gpus, node, expected):
    """Law: CPUs and GPUs both suffice; a share is on one GPU: of 0.6, two GPUs hold two, though 2 / 0.6 is 3.3."""
    assert Needs(cpus=cpus, gpus=gpus).fit(node) == expected


def test_two_nodes_of_one_gpu_hold_two_workers_of_a_0_6_share():
    """Law: room is counted node by node: never 1 + 1 GPUs = 3 x 0.6."""
    nodes = [{"CPU": 8, "GPU": 1}] * 2
    assert sum(map(Needs(cpus=1, gpus=0.6).fit, nodes)) == 2
    assert sum(map(Needs(cpus=5, gpus=0).fit, nodes)) == 2


@pytest.mark.parametrize("gpus", [0, 0.0001, 0.25, 1, 2, 8.0])
def test_shares_that_ray_places(gpus):
    """Law: nothing, a share of one GPU, or whole ones."""
    assert check_share(gpus, "here") == gpus


@pytest.mark.parametrize("gpus", [-1, -0.25, 0.00001, 1.5, 2.25])
def test_shares_that_ray_cannot_place(gpus):
    """Law: refused with the place, the value and what is expected."""
    with pytest.raises(StudyError, match=rf"^--gpus-per-worker: {gpus:g}; expected 0, a share of one GPU"):
        check_share(gpus, "--gpus-per-worker")


@pytest.mark.parametrize(
    ("needs", "nodes", "expected"),
    [
        (Needs(cpus=1, gpus=1), [{"CPU": 8}], "no node has GPU 1 (at most 0)"),
        (
            Needs(cpus=4, gpus=2),
            [{"CPU": 2, "GPU": 1}, {"CPU": 1}],
            "no node has CPU 4 (at most 2) or GPU 2 (at most 1)",
        ),
        (Needs(cpus=4, gpus=1), [{"CPU": 8}, {"CPU": 2, "GPU": 1}], "no node has CPU 4 together with GPU 1"),
        (Needs(cpus=1, gpus=1), [], "no node has CPU 1 (at most 0) or GPU 1 (at most 0)"),
        (Needs(cpus=4, gpus=1), [{"CPU": 2}, {"CPU": 4, "GPU": 1}], ""),
    ],
)
def test_what_no_node_has_is_named(needs, nodes, expected):
    """Law: the resource, how much, and the most that there is; where each is somewhere but never together, both."""
    assert needs.missing(nodes) == expected


def test_waiting_for_a_place_states_whether_a_place_can_come():
    """Law: no such node; all such nodes busy, with figures; or nothing, where there is room and workers only start."""
    needs = Needs(cpus=1, gpus=0.5)
    nodes = [{"CPU": 8}, {"CPU": 8, "GPU": 1}]
    assert waiting_line(needs, 3, nodes[:1], nodes[:1]) == (
        "waiting for room for 3 workers (each CPU 1, GPU 0.5): no node has GPU 0.5 (at most 0), so none can start "
        "until such a node joins"
    )
    assert waiting_line(needs, 1, nodes, [{"CPU": 8}, {"CPU": 7}]) == (
        "waiting for room for 1 worker (each CPU 1, GPU 0.5): of 2 nodes 1 could hold one, and all are busy; in all "
        "CPU 15 free of 16, GPU 0 free of 1"
    )
    assert waiting_line(needs, 1, nodes, nodes) == ""


def test_own_workers_that_are_starting_do_not_wait_for_room():
    """Law: where own workers explain all that is used, only those without a place wait; else others are in the way."""
    needs, nodes = Needs(cpus=1, gpus=0), [{"CPU": 2}]
    assert waiting_line(needs, 2, nodes, [{}], own=2) == ""
    assert waiting_line(needs, 1, nodes, [{}], own=2) == ""
    each = "(each CPU 1): of 1 nodes 1 could hold one, and all are busy; in all CPU 0 free of 2"
    assert waiting_line(needs, 4, nodes, [{}], own=5) == f"waiting for room for 3 workers {each}"
    assert waiting_line(needs, 1, nodes, [{}], own=1) == f"waiting for room for 1 worker {each}"
    shared = Needs(cpus=1, gpus=0.5)
    assert "2 workers" in waiting_line(shared, 2, [{"CPU": 2, "GPU": 1}], [{"GPU": 0.5}], own=2)
