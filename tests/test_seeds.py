"""Random streams: a pure function of their key, each key its own, and seeded in one room only."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ray_unlearn
from ray_unlearn import seeds
from ray_unlearn.seeds import Seeds

KEY = {"study": 3, "population": "finetune", "original": 1, "run": 7}


def draws(seeds: Seeds, purpose: str) -> tuple[list[int], list[int]]:
    """Return the first numbers of both generators."""
    numbers = torch.randint(0, 2**62, (4,), generator=seeds.torch(purpose))
    return seeds.numpy(purpose).integers(0, 2**62, 4).tolist(), numbers.tolist()


def test_the_same_key_gives_the_same_stream_each_time() -> None:
    """A generator is fresh: asking twice does not continue the first."""
    assert draws(Seeds(**KEY), "shuffle") == draws(Seeds(**KEY), "shuffle")


def test_a_stream_is_the_sha256_of_its_key() -> None:
    """Computed by hand with sha256sum, so that no refactoring changes every digest's results unseen.

    printf '%s' '[3, "finetune", 1, 7, "shuffle"]' | sha256sum
    """
    expected = "871cd1eb073460927c95ef8a85b56aefdb118c15787a6b35fb00da24ccf7c2cb"
    assert f"{Seeds(**KEY).entropy('shuffle'):064x}" == expected


@pytest.mark.parametrize(
    "changes",
    [{"study": 4}, {"population": "finetuned"}, {"original": 0}, {"run": 8}, {"original": 7, "run": 1}],
    ids=str,
)
def test_a_key_that_differs_anywhere_gives_another_stream(changes: dict[str, Any]) -> None:
    """Also where two fields trade places (a sum of them would collide); a chance of 2^-248 to fail by bad luck."""
    one, other = draws(Seeds(**KEY), "shuffle"), draws(Seeds(**(KEY | changes)), "shuffle")
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_purposes_are_streams_of_their_own() -> None:
    """Start noise does not repeat the shuffles."""
    found = {str(draws(Seeds(**KEY), purpose)) for purpose in ("shuffle", "start-noise", "init", "script", "")}
    assert len(found) == 5


def test_no_two_of_some_thousand_keys_share_a_seed() -> None:
    """Neither the 256 bits nor the 63 that torch takes collide; by chance: 4,800 choose 2 of 2^63, about 10^-12."""
    keys = itertools.product(
        ("original", "retrained", "finetune", "ngp"), range(4), range(100), ("shuffle", "init", "noise")
    )
    entropies = [Seeds(study=0, population=p, original=o, run=r).entropy(purpose) for p, o, r, purpose in keys]
    assert len(entropies) == 4 * 4 * 100 * 3
    assert len(set(entropies)) == len(entropies)
    assert len({entropy % 2**63 for entropy in entropies}) == len(entropies)


def test_the_key_cannot_be_forged_by_its_parts() -> None:
    """Text that looks like the next field stays inside its own."""
    assert Seeds(study=0, population='a", 0, 0, "b').entropy("") != Seeds(study=0, population="a").entropy(
        'b", 0, 0, "'
    )
    assert Seeds(study=1, population="1").entropy("x") != Seeds(study=11).entropy("x")


def test_a_key_is_frozen() -> None:
    """No method can reseed the run that it works for."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Seeds(**KEY).run = 8  # type: ignore[misc]


def global_draws() -> list[Any]:
    """Draw once from each global generator."""
    return [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: S311 - what is tested


def test_global_state_seeds_all_three_and_restores_them() -> None:
    """Inside: the key's numbers, no matter what happened before. After: as if the block had not been."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = [global_draws(), global_draws()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = global_draws()
    with Seeds(**KEY).global_state("script"):
        inside = global_draws()
    assert [first, global_draws()] == undisturbed
    with Seeds(**KEY).global_state("script"):
        assert global_draws() == inside
    with Seeds(**(KEY | {"run": 8})).global_state("script"):
        other = global_draws()
    assert all(a != b for a, b in zip(inside, other, strict=True))


def test_global_state_is_restored_after_an_error() -> None:
    """A script that raises leaves nothing behind for the next run."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    def fails() -> None:
        with Seeds(**KEY).global_state("script"):
            global_draws()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


SEEDING = {
    *("manual_seed", "manual_seed_all", "seed", "seed_all", "default_rng", "RandomState", "SeedSequence", "Random"),
    *("SystemRandom", "set_rng_state", "set_rng_state_all", "setstate", "set_state", "fork_rng", "initial_seed"),
    *("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64", "Generator"),
}
DRAWING = {
    *(
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
        "bernoulli",
        "multinomial",
        "poisson",
        "rand_like",
        "randn_like",
    ),
    *(
        "normal_",
        "uniform_",
        "random_",
        "bernoulli_",
        "exponential_",
        "trunc_normal_",
        "kaiming_normal_",
        "xavier_uniform_",
    ),
}


def randomness(source: str) -> list[str]:
    """Return each call that seeds anything, and each draw that does not state from which generator."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(
            name.name.split(".")[0] in ("random", "secrets") for name in node.names
        ):
            found.append(f"{node.lineno}: import random")
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "secrets", "numpy.random", "torch.random"):
            found.append(f"{node.lineno}: from {node.module}")
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SEEDING:
            found.append(f"{node.lineno}: {name}()")
        if name in DRAWING and not any(keyword.arg == "generator" for keyword in node.keywords):
            found.append(f"{node.lineno}: {name}() without generator=")
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func).startswith(("np.random.", "numpy.random.")):
            found.append(f"{node.lineno}: np.random.{name}()")
    return found


def test_only_one_room_seeds_anything() -> None:
    """Every other module takes its generators from there, and every draw states which one it uses."""
    package = Path(ray_unlearn.__file__).parent
    found = {
        str(path.relative_to(package)): randomness(path.read_text())
        for path in sorted(package.rglob("*.py"))
        if path != package / "seeds.py"
    }
    (token,) = found.pop("cluster/local.py")  # a token is a secret: no run draws from it
    assert "random" in token
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "np.random.seed(0)",
        "rng = np.random.default_rng(0)",
        "from numpy.random import default_rng",
        "import random",
        "torch.Generator().manual_seed(0)",
        "np.random.permutation(3)",
        "noise = torch.randn(3)",
        "parameter.normal_(0, 1)",
    ],
)
def test_the_search_for_seeding_finds_it(line: str) -> None:
    """The test above can fail."""
    assert randomness(f"def f():\n    {line}\n")


def test_torch_streams_use_all_bits_of_the_entropy() -> None:
    """torch's own manual_seed keeps 32 bits of a seed; ours must not, or two of 99,999 runs would share a stream."""

    def drawn(entropy: int) -> list[float]:
        generator = torch.Generator()
        generator.set_state(seeds._torch_state(entropy))
        return [*torch.rand(700, generator=generator).tolist(), *torch.randn(50, generator=generator).tolist()]

    assert drawn(5) == drawn(5)
    for bit in (32, 63, 64, 128, 255):
        assert sum(a == b for a, b in zip(drawn(5), drawn(5 + 2**bit), strict=True)) < 3
    uniform = torch.tensor(drawn(7)[:700])
    assert abs(float(uniform.mean()) - 0.5) < 0.06  # 5 standard deviations of the mean of 700
    assert torch.Generator().set_state(seeds._torch_state(5)).initial_seed() == 0  # the layout is as assumed
