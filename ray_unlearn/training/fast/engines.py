"""The captured steps of a worker: a GPU gets one launch per training step instead of some hundreds.

    engines = Engines(cuda_graph)                    # one per worker; Training asks it through RunData.engines
    engine = engines.of(model, optimizer, images, recipe, batch_size, full_steps, weights_C)

A CUDA graph replays the same kernels on the same addresses; what a step reads from Python is frozen in it, and is
therefore part of the key by which engines are told apart. The next run reuses buffers and graph.

Captured and eager epochs are the same arithmetic in the same order; on a GPU the captured rate is float32, so that the
two agree to rounding, not in every bit. Each repeats itself bit for bit with `execution.deterministic`.

Does not cover: objectives and hooks written in Python, whose state a graph would freeze; `loop` runs those eagerly.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Hashable

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import MethodError
from ray_unlearn.seeds import nothing_drawn
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.captured import Capture, Engine, Step, parameters_of, settings_of

_KEPT = 4  # engines per worker: each holds a model, its gradients, its optimiser's state and one step's activations
_WARM_UP = 3  # steps before a capture, as torch's documentation advises: cuDNN and cuBLAS allocate in the first ones
_KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def cuda_graph(step: Step, device: torch.device) -> Step:
    """Warm a step up on a stream of its own, capture it there as a CUDA graph, and return the graph's replay.

    Raises:
        MethodError: the step cannot be captured.

    """
    with nothing_drawn(device):  # what warm-up draws, for a dropout say, no run should miss
        return _captured(step, device)


def _captured(step: Step, device: torch.device) -> Step:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True")  # so it is, and so it will be captured
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:  # thread_local: a thread that publishes the last run may allocate meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "set execution.cuda_graph: false to train without"
        raise MethodError(f"a training step cannot be captured as a CUDA graph ({reason}); {hint}") from error
    return graph.replay


def can_stand_in(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> bool:
    """Return whether an engine's copies would do what model and optimiser do.

    Hooks on modules are Python, which a graph would not call. The optimiser must be of the recipe's kind, over all
    parameters: methods that freeze some freeze others in the next run, and an engine would serve one epoch.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in model.modules() for name in hooks):
        return False
    if any(each._backward_hooks or each._post_accumulate_grad_hooks for each in model.parameters()):
        return False
    if len(optimizer.param_groups) != 1 or not isinstance(optimizer, _KINDS[recipe.optimizer]):
        return False
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return False
    return [each.numel() for each in parameters_of(optimizer)] == [each.numel() for each in model.parameters()]


class Engines:
    """The captured steps of one worker, the most recently used ones."""

    def __init__(self, capture: Capture, kept: int = _KEPT) -> None:
        self._capture, self._kept = capture, kept
        self._engines: OrderedDict[Hashable, Engine] = OrderedDict()

    def __len__(self) -> int:
        return len(self._engines)

    def of(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: ImageSet,
        recipe: Recipe,
        batch_size: int,
        full_steps: int,
        weights_C: torch.Tensor | None,
    ) -> Engine:
        """Return the engine for such trainings, a new one where there is none yet.

        Two trainings share an engine where a graph would hold the same kernels and addresses for both: the same
        modules and shapes, the same pixels, the same arithmetic; `full_steps` counts by powers of two.
        """
        capacity = 1 << (full_steps - 1).bit_length()
        how = (recipe.optimizer, repr(settings_of(optimizer)), recipe.precision, recipe.channels_last)
        where = (id(images.pixels), images.scaling, recipe.augment.crop, recipe.augment.flip, batch_size, capacity)
        key = (_layout(model), *how, *where, weights_C is not None)
        if key not in self._engines:
            made = Engine(model, optimizer, images, recipe, batch_size, capacity, weights_C, self._capture)
            self._engines[key] = made
        self._engines.move_to_end(key)
        while len(self._engines) > self._kept:
            self._engines.popitem(last=False)
        return self._engines[key]


def _layout(model: nn.Module) -> Hashable:
    """Return what tells one computation from another: modules with their settings, and each tensor's shape."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return str(model), tuple((name, tuple(t.shape), t.dtype) for name, t in tensors)
