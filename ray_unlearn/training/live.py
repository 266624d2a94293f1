"""Steps on the kernel taps that meet a pixel; the others take theirs all at once, at the end of the epoch.

    live = Live.of(model, recipe, image_size=32)           # None where there is nothing to gain
    with live:
        ...                                                # steps: live.optimizer, rates told by live.set_rate

A tap that only ever meets padding (`ray_unlearn.taps`) has no gradient, yet at every step an optimiser reads and writes
it and its state: of the 11.2 million weights of a stock ResNet-18 at 32x32 pixels, 7.0 million are such. Inside an
epoch they are put aside. What an epoch's steps do to a weight without a gradient is linear in the weight and its
momentum: one multiplication at the end, equal to the steps to rounding.

Does not cover: Adam with weight decay, which is not linear; objectives and hooks that look at a model's parameters;
`loop` lets those see all of them.
"""

from __future__ import annotations

from collections import Counter
from types import TracebackType

import torch
from torch import nn

from ray_unlearn.study.recipe import Recipe
from ray_unlearn.taps import LiveConv2d, TrimmedConv2d, live_window
from ray_unlearn.training.optimizers import make_optimizer, set_rate, steps_without_gradient

_PAYS = 250_000  # dead weights; with fewer, putting them aside costs what it saves

Tap = tuple[int, int]
Factors = tuple[float, float, float, float]


class _Layer:
    """One convolution, its weight in two parts."""

    def __init__(self, conv: TrimmedConv2d, sees: tuple[int, int], window: tuple[slice, slice]) -> None:
        self._conv, self._sees, self._window = conv, sees, window
        self.whole = conv.weight
        (height, width), (rows, columns) = conv.kernel_size, window
        taps = [(row, column) for row in range(height) for column in range(width)]
        self._dead = [tap for tap in taps if tap[0] not in range(height)[rows] or tap[1] not in range(width)[columns]]
        self._momenta: dict[Tap, torch.Tensor] = {}
        self.live = nn.Parameter(self._window_OHWI.flatten(1).contiguous())

    @property
    def num_dead(self) -> int:
        """Weights that no gradient reaches."""
        return len(self._dead) * self._conv.out_channels * self._conv.in_channels

    @property
    def _window_OHWI(self) -> torch.Tensor:
        return self.whole.detach().permute(0, 2, 3, 1)[:, *self._window]

    def part(self) -> None:
        """Let the convolution hold its live taps only."""
        self.whole = self._conv.weight
        self.live.requires_grad_(self.whole.requires_grad)  # a method may have frozen it since
        self.live.detach().copy_(self._window_OHWI.flatten(1))
        self._conv.weight, self._conv.__class__ = self.live, LiveConv2d
        self._conv.__dict__["sees"] = self._sees

    def join(self) -> None:
        """Copy the live taps back, and let the convolution hold the whole."""
        self._conv.weight, self._conv.__class__ = self.whole, TrimmedConv2d
        del self._conv.__dict__["sees"]
        self.live.grad = None
        window_OHWI = self._window_OHWI
        window_OHWI.copy_(self.live.detach().view(window_OHWI.shape))

    def move_dead(self, factors: Factors) -> None:
        """Do to dead taps what steps do without a gradient."""
        a, b, c, d = factors
        for tap in self._dead if self.whole.requires_grad and factors != (1, 0, 0, 1) else ():
            weight_OI = self.whole.detach()[:, :, tap[0], tap[1]]
            momentum_OI = self._momenta.setdefault(tap, torch.zeros_like(weight_OI))
            moved_OI = c * weight_OI + d * momentum_OI
            weight_OI.mul_(a).add_(momentum_OI, alpha=b)
            self._momenta[tap] = moved_OI


class Live:
    """A model whose convolutions hold live taps only, inside a `with`; momentum lasts from one to the next."""

    def __init__(self, model: nn.Module, recipe: Recipe, layers: list[_Layer]) -> None:
        self._recipe, self._layers = recipe, layers
        self._rates: list[float] = []
        instead = {id(layer.whole): layer.live for layer in layers}
        self.optimizer = make_optimizer(model, recipe, [instead.get(id(p), p) for p in model.parameters()])
        """Of all parameters but the dead taps."""

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, image_size: int) -> Live | None:
        """Return the model's parts; None where a step would not be the same, or dead taps are too few to matter."""
        convs = [module for module in model.modules() if type(module) is TrimmedConv2d]
        if not convs or steps_without_gradient(recipe, ()) is None:
            return None
        used = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
        layers = []
        for conv, sizes in _maps_met(model, convs, image_size).items():
            window = live_window(conv, *next(iter(sizes))) if len(sizes) == 1 else None
            if window is not None and used[id(conv.weight)] == 1:
                layers.append(_Layer(conv, next(iter(sizes)), window))
        return cls(model, recipe, layers) if sum(layer.num_dead for layer in layers) >= _PAYS else None

    def set_rate(self, rate: float) -> None:
        """Set the rate of the step that follows."""
        set_rate(self.optimizer, rate)
        self._rates.append(rate)

    def __enter__(self) -> Live:
        """Put dead taps aside."""
        self._rates.clear()
        for layer in self._layers:
            layer.part()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put weights together again, dead taps moved as the steps would have."""
        for layer in self._layers:
            layer.join()
        factors = steps_without_gradient(self._recipe, self._rates)
        if factors is not None and error is None:
            for layer in self._layers:
                layer.move_dead(factors)


def _maps_met(
    model: nn.Module, convs: list[TrimmedConv2d], image_size: int
) -> dict[TrimmedConv2d, set[tuple[int, int]]]:
    """Return which sizes of maps (height, width) reach each convolution when the model sees images of such a size."""
    met: dict[TrimmedConv2d, set[tuple[int, int]]] = {}

    def note(conv: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        met.setdefault(conv, set()).add((args[0].shape[2], args[0].shape[3]))  # type: ignore[arg-type]

    handles = [conv.register_forward_pre_hook(note) for conv in convs]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, image_size, image_size))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return met
