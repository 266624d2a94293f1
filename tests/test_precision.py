"""Precision: TensorFloat-32 inside its training alone; what a device cannot do is refused, not replaced."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nets import Linear
from samples import run_data

from ray_unlearn.errors import MethodError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training import fit
from ray_unlearn.training.precision import allow_tensor_float_32, arithmetic, autocast, check_supported

RNG = Seeds(study=0, population="test")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def flags() -> list[str]:
    """Return how GPUs may multiply now."""
    cudnn = torch.backends.cudnn
    return [torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision]


@pytest.fixture(autouse=True)
def _restored():
    yield
    allow_tensor_float_32(False)


def test_tensor_float_32_stays_inside_its_block():
    """Law: allowed inside, forbidden before and after, also when the block fails; fp32 and bf16 forbid it."""
    for precision in ("fp32", "bf16"):
        allow_tensor_float_32(True)
        with arithmetic(precision):
            assert flags() == ["ieee"] * 3
    with arithmetic("tf32"):
        assert flags() == ["tf32"] * 3
    assert flags() == ["ieee"] * 3
    with pytest.raises(ZeroDivisionError), arithmetic("tf32"):
        _ = 1 / 0
    assert flags() == ["ieee"] * 3


class Looking(Linear):
    """Notes how GPUs may multiply while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.flags += flags()
        return super().forward(images)


def test_training_is_tf32_and_what_follows_is_not(tmp_path, monkeypatch):
    """Law: the steps may round; the hook after an epoch, which predicts, may not."""
    monkeypatch.setattr("ray_unlearn.training.loop.check_supported", lambda precision, device: None)
    after: list[str] = []
    data = dataclasses.replace(run_data(tmp_path), on_epoch=lambda *_: after.extend(flags()))
    for precision, expected in (("tf32", "tf32"), ("fp32", "ieee")):
        model = Looking()
        fit(model, data, Recipe(epochs=1, precision=precision), RNG)
        assert set(model.flags) == {expected}
        assert set(after) == {"ieee"}


def test_a_cpu_refuses_tf32_before_any_step(tmp_path):
    """Law: no silent fp32; the error states what to set."""
    model = Linear()
    before = model.layer.weight.clone()
    with pytest.raises(MethodError, match=r"precision tf32: a CPU has no TensorFloat-32; expected a GPU .*fp32"):
        fit(model, run_data(tmp_path), Recipe(precision="tf32"), RNG)
    assert torch.equal(model.layer.weight, before)
    for precision in ("fp32", "bf16"):
        check_supported(precision, CPU)


def test_an_older_gpu_refuses_what_it_lacks(monkeypatch):
    """Law: TensorFloat-32 and bfloat16 come with compute capability 8.0; emulation does not count."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    check_supported("fp32", GPU)
    with pytest.raises(MethodError, match=r"tf32: expected a GPU of compute capability 8.0 or more; found Tesla T4"):
        check_supported("tf32", GPU)
    with pytest.raises(MethodError, match=r"bf16: expected a GPU that computes in bfloat16; found Tesla T4; set"):
        check_supported("bf16", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    check_supported("tf32", GPU)
    check_supported("bf16", GPU)


def test_autocast_is_for_bf16_alone():
    """Law: a product is bfloat16 under bf16, float32 otherwise, with and without the cache of casts."""
    factor = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        for cached in (True, False):
            with autocast(precision, CPU, cached=cached):
                assert (factor @ factor).dtype == dtype
                assert not (precision == "bf16" and torch.is_autocast_cache_enabled() != cached)
