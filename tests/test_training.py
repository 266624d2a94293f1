"""fit() and predict(): batches, rates, optimisers and losses, worked by hand."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import indices_of, numbered_pixels, picture, run_data, same_weights
from samples import small_net as net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, Scaling
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training import Hooks, Training, accuracy_and_loss, class_weights, fit, predict
from ray_unlearn.training.batches import Batch, Draws, Stream, augment, draw, load, sizes_of
from ray_unlearn.training.optimizers import make_optimizer, rate_factor, set_rate

RNG = Seeds(study=0, population="test")
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


def recipe(**changes) -> Recipe:
    """Return a recipe of one epoch of plain SGD in batches of 8."""
    return Recipe(**{**PLAIN, "epochs": 1, "lr": 0.01, "batch_size": 8, **changes})


class Linear(nn.Module):
    """One linear layer on 8x8 images, small enough to work by hand."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, 192, 3)  # draws nothing
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(3, 192, generator=generator) * 0.01)
            self.layer.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1) / 255)


class Spy(Linear):
    """Remembers which images it was trained on; raw, unaugmented, numbered images only."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(indices_of(images))
        return super().forward(images)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def numbered(folder: Path, count: int) -> ImageSet:
    """Return raw images numbered from 0, of labels 0, 1, 2, 0, ..."""
    return ImageSet(numbered_pixels(folder, [i % 3 for i in range(max(2, count))]), np.arange(count), Scaling.of("raw"))


# Batches


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (9, 4, [4, 4]),  # the last batch of one is dropped
        (1, 4, [1]),  # unless it is the only one
        (3, 1, [1, 1, 1]),
        (5, 100, [5]),
        (2, 4, [2]),
    ],
)
def test_an_epoch_sees_every_image_once(tmp_path, images, batch_size, sizes):
    """Law: full batches and the rest; only a last batch of one image joins no epoch."""
    assert sizes_of(images, batch_size) == sizes
    some = numbered(tmp_path, images)
    epoch = draw(some, batch_size, Augment(), torch.Generator().manual_seed(0))
    seen = epoch.rows_N.tolist()
    assert len(set(seen)) == len(seen) == len(epoch) == sum(sizes)
    assert set(seen) <= set(range(images))
    assert epoch.labels_N.tolist() == [row % 3 for row in seen]


def test_the_order_depends_on_the_generator_alone(tmp_path):
    """Law: the same generator gives the same order, the next epoch another, the global generator is not asked."""
    images = numbered(tmp_path, 10)

    def first_six(stream: str) -> list[list[int]]:
        batches = Stream(images, 4, recipe(), RNG.torch(stream))
        return [indices_of(batches.batch().images) for _ in range(6)]

    torch.manual_seed(0)
    first = first_six("a")
    torch.manual_seed(1)
    again, other = first_six("a"), first_six("b")
    assert first == again != other
    assert first[:3] != first[3:]
    for epoch in (first[:3], first[3:]):
        assert sorted(itertools.chain(*epoch)) == list(range(10))


def test_a_part_of_an_epoch_draws_no_more_than_its_steps(tmp_path):
    """Law: two of three batches leave the generator where two batches of the whole epoch had left it."""
    images, how, part, whole = numbered(tmp_path, 20), Augment(crop=1, flip=True), *(RNG.torch("a") for _ in range(2))
    two = draw(images, 8, how, part, steps=2)
    assert len(two) == 16
    three = draw(images, 8, how, whole)
    assert torch.equal(two.rows_N, three.rows_N[:16])
    assert torch.equal(two.offsets_2N, three.offsets_2N[:, :16])
    assert torch.equal(two.mirrored_N, three.mirrored_N[:16])
    torch.randint(0, 3, (2, 4), generator=part)
    torch.rand(4, generator=part)
    assert torch.equal(part.get_state(), whole.get_state())


# Augmentation


def test_no_augmentation_changes_nothing(tmp_path):
    """Law: without crop and flip the pixels are the same and nothing but the order is drawn."""
    images, drawn, ordered = numbered(tmp_path, 5), *(torch.Generator().manual_seed(3) for _ in range(2))
    epoch = draw(images, 2, Augment(), drawn)
    torch.randperm(5, generator=ordered)
    assert torch.equal(drawn.get_state(), ordered.get_state())
    raw = images.pixels.rows(epoch.rows_N)
    assert torch.equal(augment(raw, Augment(), epoch), raw)


def copies(image: torch.Tensor, number: int) -> tuple[torch.Tensor, Draws]:
    """Return copies of an image, and draws without augmentation."""
    return image.repeat(number, 1, 1, 1), Draws(rows_N=torch.arange(number), labels_N=torch.zeros(number).long())


def test_every_crop_is_the_window_drawn():
    """Law: offsets (y, x) give the window at row y and column x of the image within two pixels of zeros."""
    image = torch.from_numpy(picture(1)) // 2 + 1  # no zeros of its own
    padded = torch.zeros(12, 12, 3, dtype=torch.uint8)
    padded[2:10, 2:10] = image
    places = [(y, x) for y in range(5) for x in range(5)]
    images, draws = copies(image, 25)
    cropped = augment(images, Augment(crop=2), dataclasses.replace(draws, offsets_2N=torch.tensor(places).T))
    assert cropped.dtype == torch.uint8
    assert all(torch.equal(one, padded[y : y + 8, x : x + 8]) for one, (y, x) in zip(cropped, places, strict=True))


def test_all_crops_and_flips_are_drawn(tmp_path):
    """Law: the 25 places of a crop of 2 all occur, and half of the images are mirrored."""
    images = ImageSet(numbered(tmp_path, 2).pixels, np.zeros(600, np.int64), Scaling.of("raw"))
    epoch = draw(images, 64, Augment(crop=2, flip=True), torch.Generator().manual_seed(0))
    places = set(zip(*epoch.offsets_2N.tolist(), strict=True))
    assert places == {(y, x) for y in range(5) for x in range(5)}  # missed by chance: 25 * (24/25)^600 < 1e-9
    assert 226 < int(epoch.mirrored_N.sum()) < 374  # six standard deviations of 12


def test_flips_mirror_left_and_right():
    """Law: a mirrored image has its columns in reverse, never its rows; the others stay as they are."""
    image = torch.from_numpy(picture(2))
    images, draws = copies(image, 3)
    flipped = augment(images, Augment(flip=True), dataclasses.replace(draws, mirrored_N=torch.tensor([1, 0, 1]).bool()))
    assert torch.equal(flipped, torch.stack([image.flip(1), image, image.flip(1)]))


def test_labels_stay_with_their_images(tmp_path):
    """Law: augmentation moves pixels, not rows."""
    data, how = run_data(tmp_path), recipe(augment=Augment(flip=True))
    epoch = draw(data.retain, 8, how.augment, torch.Generator().manual_seed(0))
    batch = load(data.retain, epoch.part(8, 11), how)
    assert batch.labels.tolist() == [row % 3 for row in epoch.rows_N[8:11].tolist()]
    for image, row in zip(batch.images, epoch.rows_N[8:11].numpy(), strict=True):
        original = torch.from_numpy(data.retain.pixels.gather(row[None])[0]).permute(2, 0, 1).float()
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))


# Rates


@pytest.mark.parametrize("epochs", [1, 7, 30])
def test_cosine_is_torchs(epochs):
    """Law: per epoch, the factor is that of CosineAnnealingLR(T_max=epochs), which the competition used."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        here = recipe(schedule="cosine", epochs=epochs)
        assert rate_factor(here, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        assert rate_factor(here, epoch + 0.99) == rate_factor(here, epoch)
        optimizer.step()
        scheduler.step()


def test_step_is_torchs():
    """Law: StepLR(step_size=3, gamma=0.5)."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    for epoch in range(10):
        factor = rate_factor(recipe(schedule="step", epochs=10, step_epochs=3, gamma=0.5), epoch)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("changes", "done", "factor"),
    [
        ({"schedule": "constant"}, 3.7, 1.0),
        ({"schedule": "linear", "schedule_per": "batch"}, 1.0, 0.75),
        ({"schedule": "linear", "schedule_per": "batch"}, 2.5, 0.375),
        ({"schedule": "linear"}, 2.5, 0.5),  # per epoch: 2 of 4 done
        ({"schedule": "cosine", "schedule_per": "batch"}, 2.0, 0.5),
        ({"schedule": "cosine", "schedule_per": "batch"}, 1.0, (1 + math.sqrt(0.5)) / 2),
        ({"schedule": "step", "step_epochs": 1.5, "gamma": 0.1, "schedule_per": "batch"}, 3.2, 0.01),
        ({"warmup_epochs": 2}, 0.0, 0.0),
        ({"warmup_epochs": 2}, 0.5, 0.25),
        ({"warmup_epochs": 2}, 3.0, 1.0),
        ({"warmup_epochs": 2, "schedule": "linear", "schedule_per": "batch"}, 1.0, 0.5 * 0.75),
        ({"warmup_epochs": 2, "schedule": "cosine"}, 1.5, 0.75 * (1 + math.sqrt(0.5)) / 2),
    ],
)
def test_rates_worked_by_hand(changes, done, factor):
    """Law: the closed forms of the module's docstring, over four epochs; warm-up goes per batch and multiplies."""
    here = recipe(**{"epochs": 4, **changes})
    assert rate_factor(here, done) == pytest.approx(factor)
    optimizer = make_optimizer(Linear(), here)
    set_rate(optimizer, here.lr * rate_factor(here, done))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(here.lr * factor)


@pytest.mark.parametrize(
    ("epochs", "steps", "finished"),
    [(1, 3, [1]), (2, 6, [1, 2]), (0.5, 2, [1]), (1.34, 4, [1, 2]), (2.67, 8, [1, 2, 3]), (0.01, 1, [1])],
)
def test_fractional_epochs_count_steps_exactly(tmp_path, epochs, steps, finished):
    """Law: 20 images in batches of 8 are 3 steps; epochs * 3, rounded, at least one; a part of an epoch is one."""
    model, ended = Spy(), []
    data = run_data(tmp_path)
    data = type(data)(
        **{n: getattr(data, n) for n in type(data).__slots__} | {"on_epoch": lambda m, e, x: ended.append(e)}
    )
    fit(model, data, recipe(epochs=epochs), RNG)
    assert len(model.seen) == steps
    assert ended == finished


# Optimisers and losses


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
    ],
)
def test_fit_is_the_plain_loop(tmp_path, name, plain):
    """Law: three epochs of fit are three epochs of the loop that everyone writes, on the same batches."""
    data = run_data(tmp_path, normalize="unit")
    how = recipe(optimizer=name, momentum=0.9, weight_decay=0.1, epochs=3, channels_last=False)
    model, by_hand = Linear(), Linear()
    fit(model, data, how, RNG)
    optimizer, generator = plain(by_hand.parameters()), RNG.torch("fit-retain")
    for _ in range(3):
        order = torch.randperm(20, generator=generator).numpy()
        for start in (0, 8, 16):
            images, labels = data.retain.batch(order[start : start + 8])
            optimizer.zero_grad()
            F.cross_entropy(by_hand(images), labels).backward()
            optimizer.step()
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(model.layer.weight, Linear().layer.weight)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_pipeline_is_the_one_written_out_bit_for_bit(tmp_path, shards, channels_last):
    """Law: order, then each batch's crops and its flips, from one stream in that order; (x - mean) / std in float32."""
    data = run_data(tmp_path, normalize="standard", shards=shards)
    assert (data.train.pixels.resident is None) == (shards == 2)
    how = recipe(augment=Augment(crop=2, flip=True), epochs=2, channels_last=channels_last)
    model, by_hand = net(), net()
    fit(model, data, how, RNG)
    by_hand.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    optimizer, generator = make_optimizer(by_hand, how), RNG.torch("fit-retain")
    for _ in range(2):
        order = torch.randperm(20, generator=generator).numpy()
        for start in (0, 8, 16):
            rows = data.retain.indices[order[start : start + 8]]
            ys, xs = torch.randint(0, 5, (2, len(rows)), generator=generator).tolist()
            mirrored = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
            images = []
            for row, y, x, mirror in zip(rows, ys, xs, mirrored, strict=True):
                padded = np.pad(data.retain.pixels.gather(row[None])[0], ((2, 2), (2, 2), (0, 0)))[y : y + 8, x : x + 8]
                images.append(padded[:, ::-1] if mirror else padded)
            scaled = (torch.from_numpy(np.stack(images)).float() - 127.5) / torch.full((8, 8, 3), 63.75)
            batch = scaled.permute(0, 3, 1, 2)
            optimizer.zero_grad()
            out = by_hand(batch if channels_last else batch.contiguous())
            F.cross_entropy(out, torch.from_numpy(rows % 3)).backward()
            optimizer.step()
    assert same_weights(weights_of(model), weights_of(by_hand))


def test_one_sgd_step_worked_by_hand(tmp_path):
    """Law: the bias starts at 0 and moves by -lr * mean(softmax - onehot)."""
    data = run_data(tmp_path, retain=6)
    model = Linear()
    with torch.no_grad():
        model.layer.weight.zero_()
    fit(model, data, recipe(lr=0.5, batch_size=6), RNG)
    # softmax is 1/3 everywhere, labels are 0, 1, 2, 0, 1, 2: the gradient of the bias is 1/3 - 2/6 = 0
    assert torch.allclose(model.layer.bias, torch.zeros(3), atol=1e-7)
    data = run_data(tmp_path, retain=4)
    model = Linear()
    with torch.no_grad():
        model.layer.weight.zero_()
    fit(model, data, recipe(lr=0.5, batch_size=4), RNG)
    # labels 0, 1, 2, 0: -0.5 * (1/3 - [2/4, 1/4, 1/4]) = [1/12, -1/24, -1/24]
    assert torch.allclose(model.layer.bias, torch.tensor([1 / 12, -1 / 24, -1 / 24]), atol=1e-6)


def test_inverse_class_weights(tmp_path):
    """Law: 1 / count of the class in the set trained on, not normalised; a class without images counts nothing."""
    data = run_data(tmp_path, retain=8)  # labels 0 1 2 0 1 2 0 1
    weights = class_weights(data.retain, recipe(class_weights="inverse"), 4)
    assert weights is not None
    assert torch.allclose(weights, torch.tensor([1 / 3, 1 / 3, 1 / 2, 0.0]))
    assert class_weights(data.retain, recipe(), 4) is None


@pytest.mark.parametrize("given", ["inverse", (0.2, 1.0, 3.0)])
def test_weighted_training_is_torchs_weighted_loss(tmp_path, given):
    """Law: one step with class weights is a step along the gradient of CrossEntropyLoss(weight=...)."""
    data = run_data(tmp_path, retain=8)
    weight = torch.tensor([1 / 3, 1 / 3, 1 / 2] if given == "inverse" else given)
    model, by_hand = Linear(), Linear()
    fit(model, data, recipe(class_weights=given, lr=0.5), RNG)
    images, labels = data.retain.batch(np.arange(8))
    nn.CrossEntropyLoss(weight=weight)(by_hand(images), labels).backward()
    expected = by_hand.layer.weight - 0.5 * by_hand.layer.weight.grad
    assert torch.allclose(model.layer.weight, expected, atol=1e-6)


def test_class_weights_of_another_length_are_refused(tmp_path):
    """Law: expected and found are both reported."""
    with pytest.raises(MethodError, match="class_weights: expected 3 numbers, one per class; found 2"):
        fit(Linear(), run_data(tmp_path), recipe(class_weights=(1.0, 2.0)), RNG)


def test_a_diverging_run_reports_it(tmp_path):
    """Law: an impossible rate ends in an error that names epoch and rate, not in weights of NaN."""
    with pytest.raises(TrainingDiverged, match=r"the training loss of epoch \d+ is (nan|inf); .*\(lr 1e\+30\)"):
        fit(net(), run_data(tmp_path), recipe(lr=1e30, epochs=20, batch_size=4), RNG)


def test_the_epochs_loss_is_the_mean_over_its_images(tmp_path):
    """Law: batches of 8, 8 and 4 weigh 8, 8 and 4, and the hook gets it once per epoch."""
    losses, constants = [], iter([1.0, 2.0, 4.0])
    data = run_data(tmp_path)
    data = type(data)(
        **{n: getattr(data, n) for n in type(data).__slots__} | {"on_epoch": lambda *a: losses.append(a[1:])}
    )

    def loss(model, batch):
        return model(batch.images).sum() * 0 + next(constants)

    fit(Linear(), data, recipe(), RNG, loss=loss)
    assert losses == [(1, pytest.approx((8 * 1 + 8 * 2 + 4 * 4) / 20))]


# Repetition and isolation


@pytest.mark.parametrize("changes", [{}, {"augment": Augment(crop=1, flip=True)}, {"precision": "bf16"}])
def test_the_same_run_gives_the_same_bytes(tmp_path, changes):
    """Law: bitwise equal weights no matter what the global generator does; another run index gives others."""
    data, how = run_data(tmp_path, normalize="standard"), recipe(epochs=2, optimizer="adam", **changes)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = net()
        fit(model, data, how, RNG)
        results.append(weights_of(model))
    assert same_weights(*results)
    other = net()
    fit(other, data, how, Seeds(study=0, population="test", run=1))
    assert not same_weights(results[0], weights_of(other))


def test_a_second_fit_of_a_method_draws_other_batches(tmp_path):
    """Law: `purpose` names the streams."""
    orders = []
    for purpose in ("fit", "fit", "repair"):
        model = Spy()
        fit(model, run_data(tmp_path), recipe(), RNG, purpose=purpose)
        orders.append(model.seen)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("retain",), set(range(20))),
        (("train",), set(range(26))),
        (("forget",), set(range(20, 26))),
        (("validation",), set(range(26, 30))),
    ],
)
def test_a_set_trains_on_its_images_only(tmp_path, sets, expected):
    """Law: no forget image reaches a retain batch; every image of the set is seen once per epoch."""
    model = Spy()
    fit(model, run_data(tmp_path), recipe(epochs=2), RNG, sets=sets)
    seen = sorted(itertools.chain(*model.seen))
    assert seen == sorted([*expected, *expected])


def test_two_sets_come_side_by_side_from_streams_of_their_own(tmp_path):
    """Law: the first set paces; the second is reshuffled whenever it is through, and its stream is independent."""
    pairs = []

    def loss(model, retain, forget):
        pairs.append((indices_of(retain.images), indices_of(forget.images)))
        return model(retain.images).sum() * 0

    fit(Linear(), run_data(tmp_path), recipe(epochs=2, batch_size=4), RNG, sets=("retain", "forget"), loss=loss)
    assert len(pairs) == 10  # 20 retain images in batches of 4, twice
    retained = [i for retain, _ in pairs for i in retain]
    assert sorted(retained[:20]) == sorted(retained[20:]) == list(range(20))
    # 6 forget images in batches of 4 and 2: five rounds in ten steps
    forgotten = [forget for _, forget in pairs]
    for first, rest in zip(forgotten[::2], forgotten[1::2], strict=True):
        assert sorted(first + rest) == list(range(20, 26))
    alone = Spy()
    fit(alone, run_data(tmp_path), recipe(epochs=2, batch_size=4), RNG)
    assert alone.seen == [retain for retain, _ in pairs]


def test_a_set_that_the_study_lacks_is_refused(tmp_path):
    """Law: no silent fallback to another set."""
    data = run_data(tmp_path, validation=0)
    with pytest.raises(MethodError, match="trains on the validation set, which this study does not have"):
        fit(Linear(), data, recipe(), RNG, sets=("validation",))


# Precision and memory format


def test_bf16_trains_in_half_precision_and_keeps_fp32_weights(tmp_path):
    """Law: autocast rounds the forward pass; weights, statistics and predictions stay fp32."""
    data = run_data(tmp_path, normalize="standard")
    seen: list[torch.dtype] = []
    results = {}
    for precision in ("fp32", "bf16"):
        model = net()
        model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        fit(model, data, recipe(precision=precision), RNG)
        results[precision] = weights_of(model)
        assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
        before = len(seen)
        assert predict(model, data.retain).dtype == np.float32
        assert set(seen[before:]) == {torch.float32}
    assert seen[0] == torch.float32
    assert torch.bfloat16 in seen
    assert not same_weights(results["fp32"], results["bf16"])
    for name, tensor in results["fp32"].items():
        assert torch.allclose(tensor.float(), results["bf16"][name].float(), atol=0.1)


def test_channels_last_is_memory_not_arithmetic(tmp_path):
    """Law: both formats run and agree to rounding; the batch and the model have the format asked for."""
    data, results = run_data(tmp_path, normalize="standard"), {}
    for channels_last in (True, False):
        formats = []
        model = net()
        model[0].register_forward_pre_hook(
            lambda module, inputs, formats=formats: formats.append(
                (
                    inputs[0].is_contiguous(memory_format=torch.channels_last),
                    module.weight.is_contiguous(memory_format=torch.channels_last),
                )
            )
        )
        fit(model, data, recipe(channels_last=channels_last), RNG)
        assert set(formats) == {(channels_last, channels_last)}
        results[channels_last] = weights_of(model)
    for name, tensor in results[True].items():
        assert torch.allclose(tensor.float(), results[False][name].float(), atol=1e-4)


# Prediction


def test_predictions_depend_on_weights_and_images_alone(tmp_path):
    """Law: training mode, gradients and earlier predictions leave no trace; the model changes in no bit."""
    data, model = run_data(tmp_path, normalize="standard"), net()
    model.train()
    before = weights_of(model)
    first = predict(model, data.retain)
    predict(model, data.forget)
    model.train()
    with torch.enable_grad():
        again = predict(model, data.retain)
    assert first.dtype == np.float32
    assert first.shape == (20, 3)
    assert np.array_equal(first, again)
    assert same_weights(before, weights_of(model))
    assert not model.training
    fresh = copy.deepcopy(model)
    assert np.array_equal(predict(fresh, data.retain), first)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
def test_chunks_are_invisible(tmp_path, size):
    """Law: a set's logits, computed 256 at a time, are those of its images one set at a time."""
    data, model = run_data(tmp_path), Linear()
    everything = predict(model, data.train)
    indices = np.arange(size) % 26
    chunked = predict(model, ImageSet(data.train.pixels, indices, data.train.scaling))
    assert np.allclose(chunked, everything[indices], atol=1e-6)


def test_accuracy_and_loss_worked_by_hand():
    """Law: the share of right answers, and the mean of -log softmax at the label."""
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    accuracy, loss = accuracy_and_loss(logits, np.array([0, 2]))
    assert accuracy == 0.5
    assert loss == pytest.approx((math.log(2) + math.log(10)) / 2, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"loss": lambda model, batch: model(batch.images).square().mean()}])
def test_a_finished_training_is_freed_at_once(options, tmp_path: Path) -> None:
    """Law: optimiser state goes with the last reference; the next run does not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        training = Training(net(), run_data(tmp_path), recipe(optimizer="adam"), RNG, **options)
        training.epoch()
        optimizer = weakref.ref(training.optimizer)
        del training
        assert optimizer() is None
    finally:
        gc.enable()


def test_a_step_in_its_order(tmp_path: Path) -> None:
    """Law: rate, forward, backward, the hook for gradients, the step, the hook for weights; batch by batch."""
    model, events = Linear(), []
    how = recipe(schedule="linear", schedule_per="batch", epochs=2, lr=0.6)
    optimizer = make_optimizer(model, how)
    before = [model.layer.weight.detach().clone()]

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        assert model.layer.weight.grad is None  # of the step before
        events.append("forward")
        return F.cross_entropy(model(batch.images), batch.labels)

    def after_backward() -> None:
        assert torch.equal(model.layer.weight, before[-1])
        assert model.layer.weight.grad is not None
        events.append(f"backward at {optimizer.param_groups[0]['lr']:.2f}")

    def after_step() -> None:
        assert not torch.equal(model.layer.weight, before[-1])
        before.append(model.layer.weight.detach().clone())
        events.append("step")

    hooks = Hooks(after_backward=after_backward, after_step=after_step)
    data = run_data(tmp_path, retain=24)  # three batches of eight an epoch
    fit(model, data, how, RNG, loss=loss, optimizer=optimizer, hooks=hooks)
    rates = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert events == [event for rate in rates for event in ("forward", f"backward at {rate:.2f}", "step")]
