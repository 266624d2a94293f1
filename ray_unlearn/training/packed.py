"""Several runs trained in one step: weights stacked, one pass through the net for all (`torch.func.vmap`).

    pack = Pack(size=4)
    for slot, run in enumerate(runs):            # each with its own model, streams and starting weights
        method.run(model, dataclasses.replace(data, slot=Slot(pack, slot)), options, rng)    # `fit` joins the pack
    errors = pack.train()                        # {slot: TrainingDiverged}; the other models are trained

Each run keeps its own order, augmentation and weights. A run's arithmetic depends on its slot and on the size of the
pack alone: a slot is one group of a grouped convolution and one product of a batch of products. A slot without a run
computes what the pack's first run computes, and its result is not used. Results agree with unpacked runs to rounding.

Does not cover: objectives, hooks and sets of a method's own, and trainings with several sets (`Method.packs`); which
runs share a pack (`run.packing`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError, ModelError, TrainingDiverged, first_line
from ray_unlearn.training.batches import Batch
from ray_unlearn.training.fast.small_maps import untrimmed
from ray_unlearn.training.loop import Training
from ray_unlearn.training.optimizers import make_optimizer, set_rate

Tensors = dict[str, torch.Tensor]


class Pack:
    """Up to `size` trainings of the same recipe, net and numbers of images."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._trainings: dict[int, Training] = {}

    def join(self, slot: int, training: Training) -> None:
        """Add a training, which must not have begun.

        Raises:
            MethodError: it is no plain training, or has other steps than those that joined before.

        """
        first = next(iter(self._trainings.values()), training)
        if slot in self._trainings or not training.plain:
            raise MethodError("execution.pack: the method trains more than once, or more than cross-entropy on one set")
        if training.recipe != first.recipe or training.num_images != first.num_images:
            raise MethodError("execution.pack: runs of one pack have other recipes or numbers of images")
        self._trainings[slot] = training

    def train(self) -> dict[int, TrainingDiverged]:
        """Train all runs to their end; return why runs failed, by slot.

        Raises:
            ModelError: the net cannot be computed for several sets of weights at once.

        """
        errors: dict[int, TrainingDiverged] = {}
        step = _Step(self.size, self._trainings)
        while not step.lead.done and len(errors) < len(self._trainings):
            for slot, error in step.epoch().items():
                errors.setdefault(slot, error)
        for training in self._trainings.values():
            training.model.train()
        return errors


@dataclass(frozen=True, slots=True)
class Slot:
    """A run's place in a pack."""

    pack: Pack
    number: int

    def join(self, training: Training) -> None:
        """Add the run's training."""
        self.pack.join(self.number, training)


class _Step:
    """Stacked weights and buffers [M, ...], their optimiser, and one pass through the net for all slots."""

    def __init__(self, size: int, trainings: Mapping[int, Training]) -> None:
        self._trainings = trainings
        self.lead = next(iter(trainings.values()))
        self._slots = [trainings.get(slot, self.lead) for slot in range(size)]
        """Training of each slot; the first run's where the slot is empty."""
        models = [training.model for training in self._slots]
        self._net = stackable(self.lead.model)
        self._buffers = _stacked([dict(model.named_buffers()) for model in models])
        moves = {name for name, parameter in self.lead.model.named_parameters() if parameter.requires_grad}
        weights = _stacked([dict(model.named_parameters()) for model in models])
        self._weights = {name: nn.Parameter(each) if name in moves else each for name, each in weights.items()}
        trained = [each for each in self._weights.values() if isinstance(each, nn.Parameter)]
        self._optimizer = make_optimizer(self.lead.model, self.lead.recipe, trained)

    def epoch(self) -> dict[int, TrainingDiverged]:
        """Train one epoch of every run; return why runs failed, by slot."""
        begun = {slot: training.begin_epoch() for slot, training in self._trainings.items()}
        streams = [(training, training.batches(begun[slot][0])) for slot, training in self._trainings.items()]
        totals_M = torch.zeros(len(self._slots), device=self.lead.data.device)
        for rate in next(iter(begun.values()))[1]:
            drawn = {id(training): next(stream) for training, stream in streams}
            set_rate(self._optimizer, rate)
            totals_M += self._take([drawn[id(training)] for training in self._slots])
        self._give_back()
        errors: dict[int, TrainingDiverged] = {}
        for (slot, training), total in zip(self._trainings.items(), totals_M[[*self._trainings]].tolist(), strict=True):
            try:
                training.end_epoch(total, begun[slot][0])
            except TrainingDiverged as error:
                errors[slot] = error
        return errors

    def _take(self, of_slots: Sequence[Batch]) -> torch.Tensor:
        """Take one step with a batch for each slot; return the sums of their images' losses, float32 [M]."""
        self._optimizer.zero_grad(set_to_none=True)
        images_MBCHW = torch.stack([batch.images for batch in of_slots])
        logits_MBC = packed_logits(self._net, self._weights, self._buffers, images_MBCHW)
        losses = []
        for training, logits_BC, batch in zip(self._slots, logits_MBC, of_slots, strict=True):
            losses.append(training.loss(partial(_same, logits_BC), batch))
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return torch.stack(losses).detach() * len(of_slots[0])

    @torch.no_grad()
    def _give_back(self) -> None:
        """Copy each slot's weights and buffers into its run's model."""
        stacked = {**self._weights, **self._buffers}
        for slot, training in self._trainings.items():
            for name, tensor in (*training.model.named_parameters(), *training.model.named_buffers()):
                tensor.copy_(stacked[name][slot])


def _same(logits_BC: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return logits_BC


def stackable(model: nn.Module) -> nn.Module:
    """Return a copy of a net for `packed_logits`, in training mode, whose own weights are not used."""
    return untrimmed(copy.deepcopy(model)).train()


def packed_logits(net: nn.Module, weights: Tensors, buffers: Tensors, images_MBCHW: torch.Tensor) -> torch.Tensor:
    """Return float32 [M, B, C] of M sets of weights, each on its own images; buffers are updated in place.

    Raises:
        ModelError: the net draws random numbers, decides by values, or has an operation without a stacked form.

    """

    def call(own: Tensors, state: Tensors, images_BCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = functional_call(net, (own, state), (images_BCHW,))
        return logits.float()

    try:
        return vmap(call, randomness="error")(weights, buffers, images_MBCHW)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"execution.pack: the net cannot be trained with the weights of several runs at once: {first_line(error)}; "
            "set execution.pack: 1"
        ) from error


def try_packed(model: nn.Module, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> None:
    """Check that a net can be trained packed, by a step of two copies; the model stays as it is.

    Raises:
        ModelError: it cannot.

    """
    weights = _stacked([dict(model.named_parameters())] * 2)
    buffers = _stacked([dict(model.named_buffers())] * 2)
    for weight in weights.values():
        weight.requires_grad_(weight.is_floating_point())
    logits_2BC = packed_logits(stackable(model), weights, buffers, torch.stack([images_BCHW] * 2))
    F.cross_entropy(logits_2BC.flatten(0, 1), labels_B.repeat(2)).backward()  # type: ignore[no-untyped-call]


def _stacked(states: list[Tensors]) -> Tensors:
    return {name: torch.stack([state[name].detach() for state in states]).contiguous() for name in states[0]}
