"""The scheduler on a simulated cluster: what it costs to lose nodes, to start, and to come to an end."""

from __future__ import annotations

import pytest
from simulator import Cluster, Figures, interleaved, plan_of_methods, simulate

GIVEN_UP = 0.001  # 1 % of attempts fail, and a run has two: one in ten thousand runs


def test_a_cluster_without_trouble_is_busy_until_the_end():
    """Law: 1 GPU, no failures: the GPU trains from the first ready worker to the last run, and nothing is lost."""
    quiet = Cluster(nodes=1, gpus=1, fail_share=0.0, preempted_per_hour=0.0, publish_s=0.0)
    figures = simulate(plan_of_methods(2, 10), quiet)
    assert (len(figures.tally.made), figures.lost, figures.preemptions) == (31, 0.0, 0)
    assert figures.until_queue_empty == pytest.approx(1.0)
    trained = sum(end - begin for begin, end, _ in quiet.spans)
    assert figures.end_s == pytest.approx(60 + trained)
    assert figures.of_held == pytest.approx(figures.of_all) == pytest.approx(trained / (60 + trained))


def test_a_few_nodes_that_come_and_go():
    """Law: 640 runs on 8 x 8 GPUs, a node lives half an hour: all are made, each once, on what is there."""
    figures = simulate(plan_of_methods(9, 64), Cluster(nodes=8, gpus=8, seed=1, preempted_per_hour=2.0))
    assert figures.preemptions > 2
    assert sorted(figures.tally.made) == sorted(set(figures.tally.made))
    assert len(figures.tally.made) + len(figures.tally.failed) == 641
    assert 0.75 < figures.until_queue_empty < 1
    assert figures.lost < 0.06


def test_interleaved_runs_give_the_first_score_early():
    """Law: with more runs than GPUs by far, taking populations in turn scores before the first population is done."""
    plain, turns = (simulate(plan_of_methods(4, 200), Cluster(nodes=2, gpus=8), order) for order in (list, interleaved))
    assert turns.first_score_s < plain.first_score_s / 2


@pytest.mark.long
@pytest.mark.parametrize(("count", "whole"), [(1_000, 0.80), (10_000, 0.95)])
def test_a_thousand_gpus(count: int, whole: float):
    """Law: 1,000 GPUs, 1 % of attempts fail, 5 % of nodes preempted per hour: above 95 % until the queue is empty.

    Start and tail are a seventh of the 17 minutes that 10,000 runs take, and 2 % of the 2.6 hours of 100,000.
    """
    figures: Figures = simulate(plan_of_methods(9, count), Cluster(nodes=125, gpus=8), interleaved)
    print("\n".join(figures.lines()))
    assert figures.until_queue_empty > 0.95
    assert figures.of_all > whole
    assert len(figures.tally.made) > 10 * count * (1 - GIVEN_UP)
    assert len(figures.tally.made) + len(figures.tally.failed) == 10 * count + 1
    assert figures.lost < 0.02
