"""Steps on the kernel taps that meet a pixel; the other taps take an epoch's steps at once, at its end.

    live = LiveTaps.of(model, recipe, image_size=32)       # None if there is nothing to gain
    total = live.epoch(eagerly, draws, rates)              # the loop's own steps, with live.optimizer

A tap that only ever meets padding (`small_maps`) is dead: it has no gradient, yet at every step an optimiser reads and
writes it and its state. Of the 11.2 million weights of a stock ResNet-18 at 32x32 pixels, 7.0 million are dead. Inside
an epoch, steps leave them out. The effect of an epoch's steps on a weight without a gradient is linear in the weight
and its momentum: one multiplication at the end, equal to the steps to rounding.

Does not cover: Adam with weight decay, which is not linear; objectives and hooks that read a model's parameters; `loop`
gives those the whole parameters.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ray_unlearn.seeds import nothing_drawn
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Draws
from ray_unlearn.training.fast.small_maps import LiveConv2d, TrimmedConv2d, live_window
from ray_unlearn.training.optimizers import make_optimizer, steps_without_gradient

_PAYS = 250_000  # dead weights; with fewer, leaving them out costs as much as it saves

Tap = tuple[int, int]
Size = tuple[int, int]
Window = tuple[slice, slice]
Factors = tuple[float, float, float, float]


class _Layer:
    """One convolution, whose weight is split into live and dead taps."""

    def __init__(self, conv: TrimmedConv2d, sees: Size, window: Window) -> None:
        self._conv, self._sees, self._window = conv, sees, window
        self.whole = conv.weight
        (height, width), (rows, columns) = conv.kernel_size, window
        taps = [(row, column) for row in range(height) for column in range(width)]
        self._dead = [tap for tap in taps if tap[0] not in range(height)[rows] or tap[1] not in range(width)[columns]]
        self.momenta: dict[Tap, torch.Tensor] = {}
        self.live = nn.Parameter(self._window_OHWI.flatten(1).contiguous())

    @property
    def num_dead(self) -> int:
        """Number of weights that no gradient reaches."""
        return len(self._dead) * self._conv.out_channels * self._conv.in_channels

    @property
    def _window_OHWI(self) -> torch.Tensor:
        return self.whole.detach().permute(0, 2, 3, 1)[:, *self._window]

    def part(self) -> None:
        """Replace the convolution's weight by its live taps."""
        self.whole = self._conv.weight
        self.live.requires_grad_(self.whole.requires_grad)  # a method may have frozen it since
        self.live.detach().copy_(self._window_OHWI.flatten(1))
        self._conv.weight, self._conv.__class__ = self.live, LiveConv2d
        self._conv.__dict__["sees"] = self._sees

    def join(self) -> None:
        """Copy the live taps back into the whole weight, and restore it in the convolution."""
        self._conv.weight, self._conv.__class__ = self.whole, TrimmedConv2d
        del self._conv.__dict__["sees"]
        self.live.grad = None
        window_OHWI = self._window_OHWI
        window_OHWI.copy_(self.live.detach().view(window_OHWI.shape))

    def move_dead(self, factors: Factors) -> None:
        """Apply to dead taps the effect of an epoch's steps without a gradient."""
        a, b, c, d = factors
        for tap in self._dead if self.whole.requires_grad and factors != (1, 0, 0, 1) else ():
            weight_OI = self.whole.detach()[:, :, tap[0], tap[1]]
            momentum_OI = self.momenta.setdefault(tap, torch.zeros_like(weight_OI))
            moved_OI = c * weight_OI + d * momentum_OI
            weight_OI.mul_(a).add_(momentum_OI, alpha=b)
            self.momenta[tap] = moved_OI


class LiveTaps:
    """A model whose convolutions hold only live taps inside a `with`; momentum is kept from one block to the next."""

    def __init__(self, model: nn.Module, recipe: Recipe, layers: list[_Layer]) -> None:
        self._recipe, self._layers = recipe, layers
        instead = {id(layer.whole): layer.live for layer in layers}
        self.optimizer = make_optimizer(model, recipe, [instead.get(id(p), p) for p in model.parameters()])
        """Optimiser of all parameters except the dead taps."""

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, image_size: int) -> LiveTaps | None:
        """Return the model with its taps split; None if steps would differ, or if dead taps are too few."""
        convs = {name: each for name, each in model.named_modules() if type(each) is TrimmedConv2d}
        if steps_without_gradient(recipe, ()) is None or sum(each.weight.numel() for each in convs.values()) < _PAYS:
            return None
        used = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
        tried = {name: sees for name, sees in _tried(model, image_size).items() if used[id(convs[name].weight)] == 1}
        layers = [_Layer(convs[name], sees, window) for name, (sees, window) in tried.items()]
        return cls(model, recipe, layers) if sum(layer.num_dead for layer in layers) >= _PAYS else None

    def epoch(
        self,
        eagerly: Callable[[Draws, Sequence[float], torch.optim.Optimizer], torch.Tensor],
        draws: Draws,
        rates: Sequence[float],
    ) -> torch.Tensor:
        """Take an epoch's steps on live taps, then move the dead ones as the steps would have; return the loss."""
        with self:
            total = eagerly(draws, rates, self.optimizer)
        factors = steps_without_gradient(self._recipe, rates)
        if factors is not None:
            for layer in self._layers:
                layer.move_dead(factors)
        return total

    def momenta(self) -> dict[str, torch.Tensor]:
        """Return the momenta of dead taps, by layer and tap."""
        return {
            f"dead.{i}.{row}.{column}": momentum_OI
            for i, layer in enumerate(self._layers)
            for (row, column), momentum_OI in layer.momenta.items()
        }

    def restore(self, momenta: Mapping[str, torch.Tensor]) -> None:
        """Take over the momenta of dead taps; other names are ignored."""
        for name, momentum_OI in momenta.items():
            kind, *place = name.split(".")
            if kind == "dead":
                i, row, column = map(int, place)
                self._layers[i].momenta[row, column] = momentum_OI.clone()

    def __enter__(self) -> LiveTaps:
        """Replace weights by their live taps."""
        for layer in self._layers:
            layer.part()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Restore whole weights, with unchanged dead taps."""
        for layer in self._layers:
            layer.join()


def _tried(model: nn.Module, image_size: int) -> dict[str, tuple[Size, Window]]:
    """Return the convolutions with one output pixel, their input size, and their live taps; tried on a copy.

    Empty if the copy's logits change without the dead taps: a model may read a weight in other ways than by calling its
    layer, and is then trained with whole weights.
    """
    images = torch.linspace(-1, 1, 4 * 3 * image_size**2).view(4, 3, image_size, image_size).sin_()
    try:
        with torch.no_grad():
            twin = copy.deepcopy(model).eval()
            convs = {each: name for name, each in twin.named_modules() if type(each) is TrimmedConv2d}
            met = _maps_met(twin, list(convs), images)
            found: dict[str, tuple[Size, Window]] = {}
            for conv, sizes in met.items():
                window = live_window(conv, *next(iter(sizes))) if len(sizes) == 1 else None
                if window is not None:
                    found[convs[conv]] = next(iter(sizes)), window
            whole = _answer(twin, images)
            for conv, name in list(convs.items()):
                if name in found:
                    _Layer(conv, *found[name]).part()
            return found if torch.allclose(_answer(twin, images), whole, rtol=1e-4, atol=1e-5) else {}
    except Exception:  # a model that cannot be copied, or fails with live taps, is trained with whole weights
        return {}


def _maps_met(model: nn.Module, convs: list[TrimmedConv2d], images: torch.Tensor) -> dict[TrimmedConv2d, set[Size]]:
    """Return the sizes of maps (height, width) that reach each convolution when the model gets such images."""
    met: dict[TrimmedConv2d, set[Size]] = {}

    def note(conv: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        (maps,) = (*args, *named.values())
        met.setdefault(conv, set()).add(tuple(maps.shape[2:]))

    handles = [conv.register_forward_pre_hook(note, with_kwargs=True) for conv in convs]
    _answer(model, images)
    for handle in handles:
        handle.remove()
    return met


def _answer(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a model's logits for images; torch's random state is restored afterwards."""
    with nothing_drawn(torch.device("cpu")):
        answer: torch.Tensor = model(images)
    return answer
