"""Dead taps put aside for an epoch: all weights take the same steps, to rounding."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from samples import run_data
from torch import nn

from ray_unlearn.errors import ModelError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training import Training
from ray_unlearn.training.fast import live_taps
from ray_unlearn.training.fast.live_taps import LiveTaps
from ray_unlearn.training.fast.small_maps import LiveConv2d, TrimmedConv2d, trim
from ray_unlearn.training.loop import Hooks
from ray_unlearn.training.optimizers import make_optimizer, set_rate, steps_without_gradient

RNG = Seeds(study=0, population="live")
RATES = (0.5, 0.25, 0.1)


def recipe(**changes) -> Recipe:
    return Recipe(**{"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.1, "epochs": 2, "batch_size": 4, **changes})


def net() -> nn.Module:
    """Return a net whose second convolution turns 2x2 into 1x1 maps, and whose third sees 1x1 maps; 8x8 images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()]
    return trim(nn.Sequential(*layers, nn.Conv2d(6, 5, 3, padding=1), nn.Flatten(), nn.Linear(5, 3)))


@pytest.fixture
def paying(monkeypatch):
    """Let the smallest net be worth it."""
    monkeypatch.setattr(live_taps, "_PAYS", 1)


@pytest.fixture
def data(tmp_path: Path):
    """Return twelve images to train on."""
    return run_data(tmp_path, retain=12, normalize="standard")


def trained(model, data, how, **more):
    """Return the model after its training, and whether it was trained on live taps."""
    training = Training(model, data, how, RNG, **more)
    while not training.done:
        training.epoch()
    return model, getattr(training._take, "live", None) is not None


def test_factors_by_hand():
    """SGD, one step at rate 0.5 with decay 0.1: m' = 0.9 m + 0.1 w, w' = w - 0.5 m'. AdamW: w' = (1 - 0.5 0.1) w."""
    assert steps_without_gradient(recipe(), [0.5]) == pytest.approx((0.95, -0.45, 0.1, 0.9))
    assert steps_without_gradient(recipe(optimizer="adamw"), [0.5]) == pytest.approx((0.95, 0, 0, 1))
    assert steps_without_gradient(recipe(optimizer="adam", weight_decay=0.0), [0.5]) == (1, 0, 0, 1)
    assert steps_without_gradient(recipe(optimizer="adam"), [0.5]) is None


@pytest.mark.parametrize(
    "how", [recipe(), recipe(optimizer="adamw"), recipe(optimizer="adam", weight_decay=0.0), recipe(weight_decay=0.0)]
)
def test_factors_are_what_the_optimiser_does(how):
    """Law: several steps at several rates, gradients zero, move a weight as the product of the factors states."""
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    a, b, _, _ = steps_without_gradient(how, RATES)
    expected = a * weight.detach() + b * torch.zeros(7)
    optimizer = make_optimizer(nn.ParameterList([weight]), how)
    for rate in RATES:
        weight.grad = torch.zeros(7)
        set_rate(optimizer, rate)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory_format", [True, False])
@pytest.mark.parametrize("how", [{}, {"optimizer": "adamw"}, {"precision": "bf16"}, {"schedule": "linear"}])
def test_training_is_the_same_with_and_without(how, memory_format, data, monkeypatch, paying):
    """Law: over epochs, momentum included, every weight agrees to rounding; dead taps move, too."""
    how = recipe(**how, channels_last=memory_format)
    ours, was_live = trained(net(), data, how)
    assert was_live
    monkeypatch.setattr(live_taps, "_PAYS", 1 << 40)
    theirs, was_live = trained(net(), data, how)
    assert not was_live
    dead = torch.ones(3, 3, dtype=torch.bool)
    dead[1, 1] = False
    three = zip(ours.state_dict().items(), theirs.parameters(), net().parameters(), strict=True)
    for (name, own), other, before in three:
        torch.testing.assert_close(own, other, rtol=1e-3 if how.precision == "bf16" else 1e-5, atol=1e-6)
        moved = own != before
        assert moved.any()
        if name == "4.weight":
            assert moved[:, :, dead].all()


def test_between_epochs_the_model_is_whole(data, paying):
    """Law: anyone who is called after an epoch sees ordinary convolutions with all their weights."""
    seen = []
    model = net()
    watched = dataclasses.replace(data, on_epoch=lambda m, *_: seen.append(copy.deepcopy(m)))
    training = Training(model, watched, recipe(), RNG)
    training.epoch()
    assert training._take.live is not None
    assert type(seen[0][4]) is TrimmedConv2d
    assert [tuple(p.shape) for p in seen[0].parameters()] == [tuple(p.shape) for p in net().parameters()]
    assert vars(model[4]).keys() == vars(net()[4]).keys()


def test_another_optimiser_in_between_trains_all_taps(data, paying, monkeypatch):
    """Law: a method that puts a new optimiser in its training's place gets what the loop would give it."""
    results = []
    for pays in (1, 1 << 40):
        monkeypatch.setattr(live_taps, "_PAYS", pays)
        model = net()
        training = Training(model, data, recipe(epochs=4), RNG)
        training.epoch()
        training.optimizer = make_optimizer(model, recipe())
        training.epoch()
        results.append((model, training.optimizer.state))
    (ours, own_state), (theirs, state) = results
    assert len(own_state) == len(state) > 0
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_an_error_inside_an_epoch_leaves_the_model_whole(paying):
    """Law: no matter what ends an epoch, the convolutions hold their weights again."""
    model = net()
    with pytest.raises(RuntimeError, match="shapes"), LiveTaps.of(model, recipe(), 8):
        model[4](torch.zeros(1, 7, 1, 1) if type(model[4]) is LiveConv2d else None)
    assert all(torch.equal(own, other) for own, other in zip(model.parameters(), net().parameters(), strict=True))
    assert type(model[4]) is TrimmedConv2d


def test_who_looks_at_parameters_sees_all_of_them(data, paying):
    """Law: an objective, a hook or an optimiser of the method's own, module hooks, a tied weight: no taps put aside."""
    looks = [{"hooks": Hooks()}, {"loss": lambda model, batch: model(batch.images).square().mean()}]
    assert not any(trained(net(), data, recipe(), **each)[1] for each in looks)
    hooked = net()
    hooked[4].register_forward_hook(lambda *_: None)
    assert not trained(hooked, data, recipe())[1]
    tied = trim(nn.Sequential(nn.Conv2d(3, 3, 3, stride=8), nn.Conv2d(3, 3, 3, padding=1)))
    tied.append(copy.copy(tied[1]))
    assert LiveTaps.of(tied, recipe(), 8) is None
    assert LiveTaps.of(net(), recipe(optimizer="adam"), 8) is None
    assert LiveTaps.of(net(), recipe(), 8) is not None


class Odd(nn.Module):
    """A net that does something of its own in `forward`."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.body, self.what = net(), what
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.what == "counts":
            self.calls += 1
        if self.what == "draws":
            images = images + torch.randn(())
        logits, weight = self.body[:4](images), self.body[4].weight
        logits = self.body[5:](self.body[4](input=logits))
        if self.what == "reads":
            return logits / weight.norm()
        return logits + weight[0, 0, 0, 0] if self.what == "cuts" else logits


@pytest.mark.parametrize(("what", "is_live"), [("reads", False), ("cuts", False), ("counts", True), ("draws", True)])
def test_a_forward_of_the_models_own_is_respected(what: str, is_live: bool, data, monkeypatch, paying):
    """Law: a model that reads a weight in addition to calling its layer trains on all taps; trying changes neither
    buffers nor what is drawn; a layer may be called by keyword.
    """
    torch.manual_seed(0)
    ours, was_live = trained(Odd(what), data, recipe())
    assert was_live is is_live
    monkeypatch.setattr(live_taps, "_PAYS", 1 << 40)
    torch.manual_seed(0)
    theirs, _ = trained(Odd(what), data, recipe())
    for own, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_stays(data, paying):
    """Law: a convolution that a method freezes between epochs keeps every tap."""
    model = net()
    training = Training(model, data, recipe(), RNG)
    training.epoch()
    model[4].weight.requires_grad_(False)
    kept = model[4].weight.detach().clone()
    training.epoch()
    assert torch.equal(model[4].weight, kept)


def test_other_maps_are_refused(paying):
    """Law: a convolution cut for one size of maps reports it when it meets another."""
    model = net()
    with (
        LiveTaps.of(model, recipe(), 8),
        pytest.raises(ModelError, match=r"1x1 pixels at first and now of 2x2.*trim_dead"),
    ):
        model[4](torch.zeros(1, 6, 2, 2))
