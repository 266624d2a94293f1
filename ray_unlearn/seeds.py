"""(study seed, population, original, run, purpose) -> generators. The only room that seeds anything.

    rng = Seeds(study=0, population="finetune", original=0, run=7)
    order = rng.torch("shuffle")            # a torch.Generator on the CPU
    chosen = rng.numpy("forget-split")      # a numpy.random.Generator
    with rng.global_state("script"):        # code that only knows the global generators
        unlearning(net, ...)

A stream's seed is the sha256 of its whole key, never a sum (`seed + epoch` collides). All draws happen on the CPU, so
that a run's random numbers do not depend on its device.

Does not cover: generators that foreign code makes from the operating system's entropy (`numpy.random.default_rng()`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """The root of a run's random streams. For the study's own draws (splits) the run fields stay at their defaults."""

    study: int
    """The study's `seed`."""
    population: str = ""
    """Name of the population; two populations never share a stream."""
    original: int = 0
    """Index of the original that the run starts from."""
    run: int = 0
    """Index of the run in its population."""

    def entropy(self, purpose: str) -> int:
        """Return the 256-bit seed of the stream called `purpose`."""
        key = json.dumps([self.study, self.population, self.original, self.run, purpose])
        return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")

    def numpy(self, purpose: str) -> np.random.Generator:
        """Return a fresh NumPy generator for `purpose`; the same key gives the same stream."""
        return np.random.Generator(np.random.PCG64(self.entropy(purpose)))

    def torch(self, purpose: str) -> torch.Generator:
        """Return a fresh torch CPU generator for `purpose`; the same key gives the same stream."""
        import torch

        generator = torch.Generator()
        generator.set_state(_torch_state(self.entropy(purpose)))
        return generator

    @contextlib.contextmanager
    def global_state(self, purpose: str) -> Iterator[None]:
        """Seed the global generators of `random`, NumPy and torch (all devices) in the block; restore them after.

        The generators of GPUs are seeded only where a GPU exists: without one, every call would cost torch milliseconds
        and leave a deferred call for a CUDA that never starts.
        """
        import torch

        python_state, numpy_state = random.getstate(), np.random.get_state()
        seed, begun = self.entropy(purpose), torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if begun else ()):
            try:
                random.seed(seed)
                np.random.seed(_words(seed, 8))
                if begun or _has_gpu():
                    torch.cuda.manual_seed_all(seed % 2**63)  # they take all 64 bits; the CPU's would take 32
                torch.set_rng_state(_torch_state(seed))
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedSeeds(Seeds):
    """The same streams; it keeps every generator that it hands out, so that their states can be saved and restored."""

    handed: list[tuple[str, torch.Generator | np.random.Generator]] = field(default_factory=list, compare=False)
    """Purpose and generator, in the order in which they were asked for."""

    def numpy(self, purpose: str) -> np.random.Generator:
        """Return a fresh NumPy generator for `purpose`, and keep it."""
        generator = Seeds.numpy(self, purpose)
        self.handed.append((purpose, generator))
        return generator

    def torch(self, purpose: str) -> torch.Generator:
        """Return a fresh torch CPU generator for `purpose`, and keep it."""
        generator = Seeds.torch(self, purpose)
        self.handed.append((purpose, generator))
        return generator


def generator_states(handed: RecordedSeeds | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the states of the generators that were handed out, and of the global ones: tensors, and JSON values."""
    import torch

    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, *rest = np.random.get_state()
    tensors["random.numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    own: list[Any] = []
    for i, (purpose, generator) in enumerate(handed.handed if handed else ()):
        if isinstance(generator, torch.Generator):
            tensors[f"random.own.{i}"] = generator.get_state()
            own.append([purpose, None])
        else:
            own.append([purpose, generator.bit_generator.state])
    return tensors, {"own": own, "numpy": [kind, *rest], "python": random.getstate()}


def restore_generators(handed: RecordedSeeds | None, tensors: Mapping[str, torch.Tensor], values: Any) -> None:
    """Restore what `generator_states` returned.

    Raises:
        ValueError: other generators were handed out than then.

    """
    import torch

    generators = handed.handed if handed else []
    if [purpose for purpose, _ in generators] != [purpose for purpose, _ in values["own"]]:
        raise ValueError("the method has drawn from other streams than when the snapshot was made")
    for i, ((_, generator), (_, state)) in enumerate(zip(generators, values["own"], strict=True)):
        if isinstance(generator, torch.Generator):
            rewind(generator, tensors[f"random.own.{i}"])
        else:
            generator.bit_generator.state = state
    torch.set_rng_state(tensors["random.torch"])
    count = sum(name.startswith("random.cuda.") for name in tensors)
    if count:
        torch.cuda.set_rng_state_all([tensors[f"random.cuda.{i}"] for i in range(count)])
    kind, *rest = values["numpy"]
    np.random.set_state((kind, tensors["random.numpy"].numpy().astype(np.uint32), *rest))
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))


def rewind(generator: torch.Generator, state: torch.Tensor) -> None:
    """Put a generator back into a state that it had."""
    generator.set_state(state)


@contextlib.contextmanager
def nothing_drawn(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators (the CPU's and the device's) after the block."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else ()):
        yield


@functools.cache
def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@contextlib.contextmanager
def reseeding() -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds torch's global CPU generator with 32 bits; its state is restored after the block.

    For code of libraries that draws from the global generator, once per image.
    """
    import torch

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)  # of the CPU alone

    state = torch.get_rng_state()
    try:
        yield seed
    finally:
        torch.set_rng_state(state)


_MT19937_WORDS = 624
_MT19937_AT = 24  # bytes before the words in torch's serialised CPU generator; a test would notice a new layout


def _words(entropy: int, count: int) -> np.ndarray:
    """Return uint32 [count], filled from all 256 bits of the entropy."""
    return np.random.PCG64(entropy).random_raw(count).astype(np.uint32)


def _torch_state(entropy: int) -> torch.Tensor:
    """Return the state of a CPU generator seeded with all 256 bits.

    `manual_seed` keeps the low 32 bits only, so that two of 99,999 runs would share a stream in two studies of three.
    """
    import torch

    state = torch.Generator().manual_seed(0).get_state()
    words = state.numpy()[_MT19937_AT : _MT19937_AT + 8 * _MT19937_WORDS].view(np.uint64)
    words[:] = _words(entropy, _MT19937_WORDS)
    return state
