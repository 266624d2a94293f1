"""Every method's steps as a GPU captures them: recorded once and repeated on the same memory, they give equal bytes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import re
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import HostRead, record
from samples import digits_and_original, on_gpu, same_weights

from ray_unlearn import methods
from ray_unlearn.methods import METHODS
from ray_unlearn.report.text import method_lines
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training import fit, predict
from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph

SHORT = {"epochs": 1.0, "batch_size": 8, "channels_last": False}
"""30 retain images in batches of 8: three full ones, which are replayed, and one of 6, which is not; of 10 to forget
one and one of 2. More epochs below are of methods that change something between them."""
OPTIONS = {
    "train": {"on": "train"},
    "finetune": {"epochs": 2.0, "augment": {"crop": 1, "flip": True}, "schedule": "cosine", "schedule_per": "batch"},
    "negative_gradient_plus": {"forget_batch_size": 3},
    "catastrophic_forgetting_k": {
        "epochs": 2.0,
        "max_norm": 1.0,
        "anchor": 0.1,
        "decay_epochs": (1,),
        "statistics": "batch",
    },
    "exact_unlearning_k": {"restart_lr": 0.005},
    "kookmin": {"epochs": 2.0, "warmup_epochs": 1.0},
    "forget": {"epochs": 2.0, "augment": {"flip": True}},
    "random_label": {"epochs": 2.0, "order": "joint"},
    "salun": {"epochs": 2.0},
    "l1_sparse": {"epochs": 2.0, "alpha": 0.05},
    "seif": {"epochs": 2.0},
    "scrub": {"epochs": 3.0, "forget_batch_size": 4, "decay_epochs": (1, 2), "msteps": 2},
    "fanchuan": {"epochs": 2.0, "retain_batch_size": 12, "precision": "bf16"},
    "jit": {"samples": 2},
    "amun": {"steps": 3},
    "toshi_marvel": {"variant": "pseudo_label", "scratch_epochs": 1.0},
    "amnesiacs": {"validation_epochs": 1.0},
    "unsir": {"noise_steps": 2, "noise_batch_size": 4, "noise_batches": 2, "impair_batch_size": 8},
    "sfron": {"iterations": 14, "forget_every": 3},
    "noisy_finetune": {"steps": 6},
    "noisy_finetune_reference": {"steps": 6, "clipped": "weights"},
    "sun": {"epochs": 5.0, "final_lrs": (2e-4, 1e-3, 1e-3)},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return sets of digits and a net trained on them, for all methods."""
    torch.set_num_threads(1)
    return digits_and_original(tmp_path_factory.mktemp("digits"))


class Counting(Engines):
    """Engines that count replays."""

    def __init__(self) -> None:
        super().__init__(self._recorded)
        self.replays = 0
        self.made: list[weakref.ref[object]] = []

    def _recorded(self, step, device):
        replay = record(step, device)

        def counted() -> None:
            self.replays += 1
            replay()

        self.made.append(weakref.ref(counted))
        return counted


@contextlib.contextmanager
def no_collection():
    """Keep the garbage collector from running in the block."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


CAPTURED = sorted(name for name, method in METHODS.own.items() if not method.why_not_captured and name != "mix")


def readme_row(kind: str) -> set[str]:
    """Return the methods in a row of the table of captured steps in methods/README.md."""
    text = Path(methods.__file__).with_name("README.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {kind} |"))
    return set(re.findall(r"`(\w+)`", row))


def test_the_exceptions_are_those_that_train_no_epochs():
    """Law: every method of the package is captured, but those without a training, whose page says so."""
    exceptions = {name: method.why_not_captured for name, method in METHODS.own.items() if method.why_not_captured}
    assert set(exceptions.values()) == {"it trains no epochs"}
    assert set(exceptions) == readme_row("no epochs to capture")
    assert "  steps captured as CUDA graphs on a GPU: yes" in method_lines(METHODS["scrub"])
    assert "  steps captured as CUDA graphs on a GPU: no: it trains no epochs" in method_lines(METHODS["null"])


def test_a_method_that_does_not_promise_it_is_not_captured(digits):
    """Law: a reason, or an installed method's silence, keeps its steps eager; its promise captures them."""
    data, original = digits
    finetune, installed = METHODS["finetune"], {"name": "theirs", "version": "1"}
    cases = [({}, True), ({"not_captured": "its loss counts"}, False), ({"distribution": installed}, False)]
    cases.append(({"distribution": installed, "not_captured": ""}, True))
    for changes, captured in cases:
        engines = Counting()
        method = dataclasses.replace(finetune, **changes)
        seen = dataclasses.replace(data, engines=engines)
        method.apply(copy.deepcopy(original), seen, method.options(**SHORT), Seeds(study=0))
        assert (engines.replays > 0) == captured
        assert bool(method.why_not_captured) != captured


@pytest.mark.parametrize("name", CAPTURED)
def test_a_methods_recorded_steps_give_its_bytes(digits, name):
    """Law: frozen in a graph, a method's steps give the weights and losses of the eager ones, bit for bit."""
    data, original = digits
    method, results = METHODS[name], []
    short = {key: value for key, value in SHORT.items() if not (name == "sfron" and key == "epochs")}
    options = method.options(**{**short, **OPTIONS.get(name, {})})
    engines = Counting()
    with no_collection():
        for each in (None, engines):
            model, losses = copy.deepcopy(original), []
            on_epoch = partial(lambda losses, model, epoch, loss: losses.append(loss), losses)
            seen = dataclasses.replace(data, engines=each, on_epoch=on_epoch)
            method.run(model, seen, options, Seeds(study=0, population=name))
            results.append((model.state_dict(), losses))
        kept = [made for made in engines.made if made() is not None]
    assert len(kept) == len(engines)  # a graph's memory goes with its training, not with the next garbage collection
    assert results[0][1] == results[1][1]
    assert same_weights(results[0][0], results[1][0])
    assert not same_weights(results[0][0], original.state_dict())
    assert engines.replays > 0
    assert (len(engines) > 0) == (name in readme_row("captured, one graph for all runs of a worker"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs: needs a GPU")
@pytest.mark.parametrize("name", CAPTURED)
def test_on_a_gpu_a_methods_graphs_give_its_outputs(digits, name):
    """Law: to rounding; no step of a method waits, draws or allocates in a way that CUDA refuses to capture."""
    data, original = digits
    data, method, results = on_gpu(data), METHODS[name], []
    short = {key: value for key, value in SHORT.items() if not (name == "sfron" and key == "epochs")}
    options = method.options(**{**short, **OPTIONS.get(name, {})})
    for engines in (None, Engines(cuda_graph)):
        model = copy.deepcopy(original).cuda()
        method.run(model, dataclasses.replace(data, engines=engines), options, Seeds(study=0, population=name))
        results.append(predict(model, data.retain))
    assert np.allclose(*results, atol=0.05)


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, batch: model(batch.images).mean() * model(batch.images).max().item(),
        lambda model, batch: model(batch.images)[batch.labels > 1].mean(),
        lambda model, batch: model(batch.images + torch.randn(1, generator=torch.Generator())).mean(),
        lambda model, batch: model(batch.images).mean() * torch.tensor(2.0),
    ],
)
def test_a_step_that_no_graph_holds_is_found(digits, loss):
    """Law: reading a number, choosing by a mask, drawing on the CPU and copying from the host are refused here."""
    data, original = digits
    with pytest.raises(HostRead):
        fit(copy.deepcopy(original), dataclasses.replace(data, engines=Counting()), Recipe(), Seeds(study=0), loss=loss)


def test_what_a_step_reads_from_python_is_frozen(digits):
    """Law: the stand-in repeats no Python: a factor that changes from step to step stays what it was."""
    data, original = digits
    seen = []

    def loss(model, batch):
        seen.append(len(seen))
        return model(batch.images).mean() * len(seen)

    results = []
    for engines in (None, Counting()):
        seen.clear()
        results.append(copy.deepcopy(original))
        seen_data, short = dataclasses.replace(data, engines=engines), Recipe(batch_size=10, epochs=1.0)
        fit(results[-1], seen_data, short, Seeds(study=0), loss=loss)
    assert not same_weights(results[0].state_dict(), results[1].state_dict())
