"""Captured steps: through an engine's buffers, a training is the eager one, bit for bit, and leaves nothing behind.

On a CPU, capturing is calling the step again, warm-up included; that proves the buffers, tables, counters and copies.
What only a GPU can show is at the end, and is skipped, with a notice, where there is none.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from samples import on_gpu, run_data
from samples import small_net as net
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.generation import open_job
from ray_unlearn.run.worker import Worker
from ray_unlearn.seeds import Seeds, nothing_drawn
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training import Hooks, Training, cross_entropy, fit, predict
from ray_unlearn.training.batches import draw
from ray_unlearn.training.fast import can_stand_in
from ray_unlearn.training.fast import cuda_graph as cuda_graphs
from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph, with_rate
from ray_unlearn.training.optimizers import make_optimizer

RNG = Seeds(study=0, population="test")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph: needs a GPU")


def again(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Stand in for a capture: warm up as a GPU would, then repeat the step by calling it."""
    with nothing_drawn(device):
        for _ in range(3):
            step()
    return step


class Counting(Engines):
    """Engines that count captures and replays."""

    def __init__(self, **how) -> None:
        self.captures = self.replays = 0
        super().__init__(self._capture_and_count, **how)

    def _capture_and_count(self, step, device):
        self.captures += 1
        replay = again(step, device)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def recipe(**changes) -> Recipe:
    """Return two epochs of Adam in batches of 8: of 20 images, two full batches and one of 4."""
    return Recipe(**{"epochs": 2, "batch_size": 8, "lr": 3e-3, "channels_last": False, **changes})


def one_shard(folder) -> RunData:
    """Return 20 retain images in one block, which makes them resident on a CPU."""
    return run_data(folder, normalize="standard", shards=1)


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    """Both sides take the fused kernel: an engine always does."""

    def fused(model, recipe, parameters=None):
        optimizer = with_rate(make_optimizer(model, recipe, parameters), recipe.lr)
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = False
        return optimizer

    monkeypatch.setattr("ray_unlearn.training.loop.make_optimizer", fused)


def trained(data: RunData, how: Recipe, *, seed: int = 0, rng: Seeds = RNG, **options) -> tuple[nn.Module, list[float]]:
    """Train a fresh net; return it and the losses of its epochs."""
    losses: list[float] = []
    model = net(seed)
    fit(model, dataclasses.replace(data, on_epoch=lambda m, e, x: losses.append(x)), how, rng, **options)
    return model, losses


def same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether all tensors of two models are equal, bit for bit."""
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


SETTINGS = [  # and how many steps are full batches
    ({}, 4),
    ({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}, 4),
    ({"optimizer": "sgd", "momentum": 0.0}, 4),
    ({"optimizer": "adamw", "weight_decay": 0.1}, 4),
    ({"augment": Augment(crop=2, flip=True), "epochs": 4}, 8),
    ({"schedule": "linear", "schedule_per": "batch", "warmup_epochs": 1.0, "epochs": 3}, 6),
    ({"class_weights": "inverse"}, 4),
    ({"precision": "bf16"}, 4),
    ({"channels_last": True, "optimizer": "sgd"}, 4),
    ({"epochs": 1.34}, 3),  # one step of the second epoch
    ({"epochs": 2.67, "augment": Augment(crop=1)}, 6),
    ({"batch_size": 20}, 2),
    ({"batch_size": 19}, 2),  # no smaller last batch: a single image is left over
    ({"batch_size": 3}, 12),
]


@pytest.mark.parametrize(("changes", "full_batches"), SETTINGS, ids=str)
def test_an_engine_trains_as_the_eager_loop_does(tmp_path, changes, full_batches):
    """Law: same weights, statistics and losses, bit for bit, no matter what the recipe; full batches are all
    replayed.
    """
    data, engines, how = one_shard(tmp_path), Counting(), recipe(**changes)
    eager, expected = trained(data, how)
    model, losses = trained(dataclasses.replace(data, engines=engines), how)
    assert losses == expected
    assert same(model, eager)
    assert not same(model, net())
    assert (engines.captures, engines.replays) == (1, full_batches)


def test_runs_through_one_engine_do_not_know_of_each_other(tmp_path):
    """Law: second and third runs through an engine give what they give alone; nothing is captured again."""
    data, engines, how = one_shard(tmp_path), Counting(), recipe(augment=Augment(flip=True), class_weights="inverse")
    with_engines = dataclasses.replace(data, engines=engines)
    for run in (0, 1, 0):
        rng = Seeds(study=0, population="test", run=run)
        model, losses = trained(with_engines, how, seed=run, rng=rng)
        alone, expected = trained(data, how, seed=run, rng=rng)
        assert losses == expected
        assert same(model, alone)
    assert (engines.captures, len(engines)) == (1, 1)


def test_an_engine_serves_sets_of_other_images_labels_and_weights(tmp_path):
    """Law: what an engine was captured for is the computation; images, labels and class weights are its input."""
    data, engines, how = one_shard(tmp_path), Counting(), recipe(class_weights="inverse")
    with_engines = dataclasses.replace(data, engines=engines)
    relabelled = data.train.with_labels(np.array([0] * 20 + [1] * 6)).subset(np.arange(3, 23))
    for images in (data.retain, relabelled):
        model, _ = trained(with_engines, how, sets=(images,))
        eager, _ = trained(data, how, sets=(images,))
        assert same(model, eager)
    assert (engines.captures, len(engines)) == (1, 1)


def test_two_trainings_alternate_in_one_engine(tmp_path):
    """Law: each goes on with its own momentum, and a method may change the model in between."""
    data, engines, how = one_shard(tmp_path), Counting(), recipe(optimizer="sgd", lr=0.05, epochs=3)
    results = []
    for each in (data, dataclasses.replace(data, engines=engines)):
        model = net()
        one, other = (Training(model, each, how, RNG, purpose=purpose) for purpose in ("a", "b"))
        while not other.done:
            one.epoch()
            with torch.no_grad():
                model[0].weight.mul_(0.9)
            other.epoch()
        results.append((model, one.optimizer, other.optimizer))
    assert same(results[0][0], results[1][0])
    assert engines.captures == 1
    for eager, engine in zip(results[0][1:], results[1][1:], strict=True):
        assert eager.param_groups[0]["lr"] == engine.param_groups[0]["lr"]
        pairs = zip(eager.param_groups[0]["params"], engine.param_groups[0]["params"], strict=True)
        for parameter, copied in pairs:
            mine, theirs = (o.state[p]["momentum_buffer"] for o, p in ((eager, parameter), (engine, copied)))
            assert torch.equal(mine, theirs)
            assert mine.any()


def test_a_training_may_go_on_eagerly(tmp_path):
    """Law: the optimiser's state is the training's own between epochs; without the engine the next epoch continues."""
    data, engines = one_shard(tmp_path), Counting()
    for how in (recipe(), recipe(optimizer="sgd")):
        models_ = []
        for switch in (False, True):
            model = net()
            training = Training(model, dataclasses.replace(data, engines=engines if switch else None), how, RNG)
            training.epoch()
            training._take.data = data
            training.epoch()
            models_.append(model)
        assert same(*models_)
    assert engines.captures == 2


def test_a_new_optimiser_begins_anew(tmp_path):
    """Law: a method that gives a training another optimiser gets no momentum of the old one."""
    data, engines, how, results = one_shard(tmp_path), Counting(), recipe(optimizer="sgd", lr=0.05), []
    for each in (data, dataclasses.replace(data, engines=engines)):
        model = net()
        training = Training(model, each, how, RNG)
        training.epoch()
        training.optimizer = with_rate(make_optimizer(model, how), how.lr)
        training.optimizer.param_groups[0]["momentum"] = 0.5  # settings are the optimiser's, not the recipe's
        training.epoch()
        results.append(model)
    assert same(*results)
    assert (engines.captures, engines.replays) == (2, 4)  # a graph holds the settings


def test_a_diverging_run_reports_it_and_the_engine_forgets_it(tmp_path):
    """Law: an infinite loss is found at the epoch's end; the next run through the same engine is clean."""
    data, engines = one_shard(tmp_path), Counting()
    with_engines = dataclasses.replace(data, engines=engines)
    with pytest.raises(TrainingDiverged, match=r"the training loss of epoch \d+ is (nan|inf); .*\(lr 1e\+30\)"):
        trained(with_engines, recipe(lr=1e30, epochs=20))
    model, _ = trained(with_engines, recipe())
    eager, _ = trained(data, recipe())
    assert same(model, eager)
    assert engines.captures == 1


def hooked(model: nn.Module) -> nn.Module:
    """Return the model with a forward hook that does nothing."""
    model[0].register_forward_hook(lambda module, inputs, output: None)
    return model


def frozen(model: nn.Module) -> nn.Module:
    """Return the model with one tensor that needs no gradient."""
    model[0].weight.requires_grad = False
    return model


OWN = [
    ({"loss": cross_entropy()}, net),
    ({"hooks": Hooks()}, net),
    ({"sets": ("retain", "forget"), "loss": lambda model, a, b: model(a.images).mean() - model(b.images).mean()}, net),
    ({"parameters": None}, lambda: frozen(net())),
    ({"batch_sizes": (64,)}, net),  # no full batch
]


@pytest.mark.parametrize(("options", "prepare"), OWN)
def test_what_a_method_makes_its_own_is_captured_for_its_training_alone(tmp_path, options, prepare):
    """Law: an objective, hooks, several sets, frozen tensors, a small batch: the eager bytes, and no shared engine."""
    engines, results, data = Counting(), [], one_shard(tmp_path)
    for each in (None, engines):
        results.append(prepare())
        fit(results[-1], dataclasses.replace(data, engines=each), recipe(), RNG, **options)
    assert same(*results)
    assert (engines.captures, len(engines)) == (1, 0)
    assert engines.replays >= 2


@pytest.mark.parametrize(("prepare", "shards"), [(lambda: hooked(net()), 1), (net, 2)])
def test_what_a_graph_would_not_call_runs_eagerly(tmp_path, prepare, shards):
    """Law: hooks on modules, and pixels that are not resident (two shards on a CPU): nothing is captured."""
    engines = Counting()
    data = dataclasses.replace(run_data(tmp_path, normalize="standard", shards=shards), engines=engines)
    for options in ({}, {"loss": cross_entropy()}):
        fit(prepare(), data, recipe(), RNG, **options)
    assert (engines.captures, len(engines)) == (0, 0)


def test_an_optimiser_of_another_kind_runs_eagerly(tmp_path):
    """Law: an optimiser that came from elsewhere is used as it is."""
    engines, model = Counting(), net()
    data = dataclasses.replace(one_shard(tmp_path), engines=engines)
    fit(model, data, recipe(), RNG, optimizer=torch.optim.RMSprop(model.parameters(), lr=1e-3))
    assert engines.captures == 0
    assert not can_stand_in(model, torch.optim.SGD(model.parameters()), recipe(optimizer="adam"))
    assert not can_stand_in(model, torch.optim.Adam(list(model.parameters())[1:]), recipe())
    adam = torch.optim.Adam(model.parameters())
    assert can_stand_in(model, adam, recipe())
    assert not can_stand_in(frozen(model), adam, recipe())  # frozen after its optimiser was made


def test_an_optimiser_is_as_the_eager_loop_leaves_it(tmp_path):
    """Law: momentum, and a rate that is a number again; a second training goes on with the same optimiser."""
    data, results = one_shard(tmp_path), []
    for engines in (None, Counting()):
        model, each = net(), dataclasses.replace(data, engines=engines)
        how = recipe(optimizer="sgd", lr=0.05, schedule="linear", schedule_per="batch")
        one = Training(model, each, how, RNG, loss=cross_entropy())
        other = Training(model, each, how, RNG, sets=("forget",), loss=cross_entropy(), optimizer=one.optimizer)
        while not one.done:
            one.epoch()
            other.epoch()
        group = one.optimizer.param_groups[0]
        momenta = [one.optimizer.state[each]["momentum_buffer"] for each in group["params"]]
        results.append((model, momenta, {key: value for key, value in group.items() if key != "params"}))
        assert all(each.grad is None for each in model.parameters()) or engines is None
    assert same(results[0][0], results[1][0])
    assert all(map(torch.equal, results[0][1], results[1][1]))
    assert results[0][2] == results[1][2]


def test_what_changes_between_epochs_is_captured_anew(tmp_path):
    """Law: another optimiser, a tensor that was frozen or that moved: no graph of the last epoch is replayed."""

    def new_optimiser(training, model):
        training.optimizer = make_optimizer(model, training.recipe)

    def freeze(training, model):
        model[0].weight.requires_grad = False

    def move(training, model):
        model[0].weight.data = model[0].weight.data.clone()

    data = one_shard(tmp_path)
    for change in (new_optimiser, freeze, move):
        results, engines = [], Counting()
        for each in (None, engines):
            model = net()
            training = Training(model, dataclasses.replace(data, engines=each), recipe(), RNG, loss=cross_entropy())
            training.epoch()
            change(training, model)
            training.epoch()
            results.append(model)
        assert same(*results)
        assert engines.captures == 2


def test_draws_in_a_step_advance(tmp_path):
    """Law: dropout draws anew at every replay, and what an eager run draws; a capture uses up no draws."""
    data, results, outputs = one_shard(tmp_path), [], []
    for engines in (None, Counting()):
        model = nn.Sequential(*net()[:-1], nn.Dropout(0.5), net()[-1])
        with RNG.global_state("method"):
            loss = cross_entropy()
            fit(model, dataclasses.replace(data, engines=engines), recipe(batch_size=10), RNG, loss=loss)
            outputs.append(torch.rand(3))
        results.append(model)
    assert same(*results)
    assert torch.equal(*outputs)


class Strided(nn.Module):
    """A convolution whose stride no tensor's shape shows."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.utils.skip_init(nn.Conv2d, 3, 3, 1, stride=stride)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(3, 3, 1, 1, generator=generator))
            self.conv.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


def test_another_computation_is_captured_anew(tmp_path):
    """Law: batch size, augmentation, precision, settings of layers and pixels are in the graph; rate and length not."""
    data, engines = one_shard(tmp_path), Counting(kept=100)
    with_engines = dataclasses.replace(data, engines=engines)
    changes = [
        {},
        {"class_weights": "inverse"},
        {"batch_size": 4},
        {"augment": Augment(flip=True)},
        {"precision": "bf16"},
        {"optimizer": "sgd"},
    ]
    for change in changes:
        trained(with_engines, recipe(**change))
    assert engines.captures == len(changes)
    for change in ({"lr": 1e-5}, {"epochs": 1}, {"schedule": "constant"}, {"warmup_epochs": 1.0}):
        trained(with_engines, recipe(**change))
    trained(with_engines, recipe(), sets=(data.retain.subset(np.arange(16)),))
    assert engines.captures == len(changes)
    for stride in (1, 2):
        model, eager = Strided(stride), Strided(stride)
        fit(model, with_engines, recipe(), RNG)
        fit(eager, data, recipe(), RNG)
        assert same(model, eager)
    assert engines.captures == len(changes) + 2


def test_the_least_recently_used_engine_goes(tmp_path):
    """Law: of three computations in two places, the one used last stays and the oldest is captured again."""
    engines = Counting(kept=2)
    data = dataclasses.replace(one_shard(tmp_path), engines=engines)
    for batch_size in (4, 5, 4, 10):
        trained(data, recipe(batch_size=batch_size))
    assert (engines.captures, len(engines)) == (3, 2)
    trained(data, recipe(batch_size=4))
    assert engines.captures == 3
    trained(data, recipe(batch_size=5))
    assert engines.captures == 4


def test_a_failed_capture_names_the_switch(tmp_path):
    """Law: what cannot be captured is one error, not an eager run in silence."""

    def failing(step, device):
        raise MethodError("a training step cannot be captured")

    data = dataclasses.replace(one_shard(tmp_path), engines=Engines(failing))
    before = net()
    model = copy.deepcopy(before)
    with pytest.raises(MethodError, match="cannot be captured"):
        fit(model, data, recipe(), RNG)
    assert same(model, before)


def test_cuda_graphs_errors_become_one_line(monkeypatch):
    """Law: torch's complaint, shortened, and the setting that trains without; warm-up errors stay what they are."""

    class Fails:
        def __init__(self, graph, stream, capture_error_mode) -> None:
            assert capture_error_mode == "thread_local"

        def __enter__(self) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")

        def __exit__(self, *error) -> None:
            pass

    class Quiet:
        def wait_stream(self, other) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error) -> None:
            pass

    for name, stand_in in {
        "Stream": lambda device: Quiet(),
        "stream": lambda stream: stream,
        "current_stream": lambda device: Quiet(),
        "CUDAGraph": lambda: None,
        "graph": Fails,
    }.items():
        monkeypatch.setattr(cuda_graphs.torch.cuda, name, stand_in)
    monkeypatch.setattr(cuda_graphs, "nothing_drawn", lambda device: contextlib.nullcontext())
    steps = itertools.count()
    expected = (
        r"^a training step cannot be captured as a CUDA graph \(operation not permitted when stream is capturing\); "
        r"set execution\.cuda_graph: false to train without$"
    )
    with pytest.raises(MethodError, match=expected):
        cuda_graph(lambda: next(steps), torch.device("cuda"))
    assert next(steps) == 3
    with pytest.raises(RuntimeError, match="out of memory"):
        cuda_graph(lambda: _raise(RuntimeError("out of memory")), torch.device("cuda"))


def _raise(error: Exception) -> None:
    raise error


# In the worker


def test_the_worker_hands_its_engines_to_every_run(tiny):
    """Law: a worker on a CPU has none, and captures nothing; one that has them gives the same to each run."""
    job = open_job(tiny())
    worker = Worker(job, "cpu")
    worker.open()
    writer = SimpleNamespace(on_epoch=None, on_images=None, all_sets=worker._sets)
    assert worker._run_data(writer, None).engines is None
    worker._engines = engines = Counting()
    assert worker._run_data(writer, None).engines is engines
    assert worker._run_data(writer, None).unobserved().engines is engines


def test_cuda_graph_is_a_matter_of_execution(tiny):
    """Law: on by default, and in no population's digest."""
    assert tiny().execution.cuda_graph
    with_graph, without = (digests_of(tiny(execution={"cuda_graph": value})) for value in (True, False))
    assert with_graph == without


def digests_of(study) -> dict[str, str]:
    """Return the digests of a study's populations."""
    return {name: population.digest for name, population in open_job(study).plan.populations.items()}


# On a GPU


def trained_on_gpu(data: RunData, how: Recipe) -> nn.Module:
    model = net().cuda()
    fit(model, data, how, RNG)
    return model


@needs_gpu
@pytest.mark.parametrize("changes", [changes for changes, _ in SETTINGS] + [{"precision": "tf32"}], ids=str)
def test_on_a_gpu_graph_and_eager_loop_agree(tmp_path, changes):
    """Law: to rounding; pixels that are not resident give the same batches."""
    data, how = on_gpu(one_shard(tmp_path)), recipe(**changes)
    eager = trained_on_gpu(data, how)
    graph = trained_on_gpu(dataclasses.replace(data, engines=Engines(cuda_graph)), how)
    copied = trained_on_gpu(on_gpu(one_shard(tmp_path), budget_bytes=0), how)
    for other in (graph, copied):
        assert np.allclose(predict(eager, data.retain), predict(other, data.retain), atol=0.05)


@needs_gpu
def test_on_a_gpu_a_run_through_a_used_engine_has_the_same_bytes(tmp_path):
    """Law: with deterministic algorithms, the first run through an engine and the third are equal, bit for bit."""
    torch.use_deterministic_algorithms(True)
    try:
        data = dataclasses.replace(on_gpu(one_shard(tmp_path)), engines=Engines(cuda_graph))
        how = recipe(augment=Augment(crop=2, flip=True), epochs=3)
        first, _, third = (trained_on_gpu(data, how) for _ in range(3))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(first, third)


@needs_gpu
def test_on_a_gpu_nothing_waits_inside_an_epoch(tmp_path):
    """Law: torch sees no synchronising operation between an epoch's first batch and its last."""
    data = on_gpu(one_shard(tmp_path))
    training = Training(net().cuda(), data, recipe(epochs=3, augment=Augment(crop=1, flip=True)), RNG)
    training.epoch()  # what is made once may wait
    epoch = draw(data.retain, 8, training.recipe.augment, RNG.torch("another")).on_device_of(data.retain)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training._steps(epoch, [1e-3] * training.steps_per_epoch, training.optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
