"""The step profiler: its figures are those of the training that it ran, and a GPU's columns are reported on a
GPU only.
"""

from __future__ import annotations

import pytest
import torch
from confidences import recipe

from ray_unlearn.errors import ModelError

PROFILE = recipe("profile_step")
TINY = ["--device", "cpu", "--arch", "small_cnn", "--image-size", "8", "--images", "40", "--batch-size", "16"]


@pytest.fixture(scope="module")
def found():
    return PROFILE.measure(PROFILE.parse([*TINY, "--epochs", "2", "--optimizer", "sgd"]))


def test_the_figures_are_of_the_step(found):
    """Law: 40 images in batches of 16 are 3 steps; times are positive, least <= median <= most."""
    assert found["steps_per_epoch"] == 3
    times = found["ms_per_step"]
    assert 0 < times["least"] <= times["median"] <= times["most"]
    assert found["device"] == "cpu"
    assert found["per_step"]["operators"] > 10  # three convolutions, normalisations, pools, a linear layer, a loss


def test_the_floors_are_counted_by_hand(found):
    """Law: bytes are 8 passes of SGD over all weights; FLOPs are 2 per product, thrice, less what the images need."""
    floor = found["floor"]
    weights = 16 * 3 * 9 + 32 * 16 * 9 + 64 * 32 * 9 + 64 * 10 + 10 + 2 * (16 + 32 + 64)
    assert floor["mb_moved"] * 1e6 == pytest.approx(8 * 4 * weights)
    assert floor["bytes_ms"] == pytest.approx(floor["mb_moved"] / floor["gb_per_s"])
    # Products per image at 8x8, 4x4 and 2x2, where each pixel meets four of nine taps.
    first, second, third = 64 * 16 * 3 * 9, 16 * 32 * 16 * 9, 4 * 64 * 32 * 4
    products = 2 * first + 3 * (second + third + 64 * 10)  # no gradient of the images
    assert floor["gflop"] * 1e9 == pytest.approx(2 * 16 * products)
    assert floor["flops_ms"] == pytest.approx(1e3 * floor["gflop"] / floor["gflop_per_s"])


def test_the_text_states_what_was_measured(found):
    """Law: architecture, size, batch, precision, device, spread and both floors."""
    lines = PROFILE.text(found).splitlines()
    assert lines[0].startswith("small_cnn, 8x8, batch 16, fp32, sgd, on cpu")
    assert [line.split(":")[0] for line in lines[1:6]] == [
        "first epoch",
        "step",
        "per step",
        "floor by bytes",
        "floor by FLOPs",
    ]


def test_a_cpu_is_profiled_in_silence(capfd):
    """Law: torch's profiler reports nothing of the GPU that it does not find."""
    PROFILE.launches(PROFILE.training(PROFILE.parse([*TINY, "--epochs", "1"])))
    assert capfd.readouterr() == ("", "")


def test_without_a_gpu_it_is_refused_at_once(monkeypatch):
    """Law: one error before anything is built, not torch's traceback."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["profile_step.py", "--device", "cuda"])
    with pytest.raises(ModelError, match=r"^device cuda: this machine has no GPU that torch can use; --device cpu"):
        PROFILE.main()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts a GPU's kernels: needs a GPU")
def test_a_captured_step_is_one_launch():
    """Law: with the graph a step launches about once, without it about as often as it has kernels."""
    words = ["--device", "cuda", *TINY[2:], "--images", "160", "--epochs", "1"]
    graph, eager = (PROFILE.measure(PROFILE.parse([*words, *more]))["per_step"] for more in ([], ["--no-cuda-graph"]))
    assert graph["launches"] < 10 < eager["launches"]
    assert graph["kernels"] > 10
