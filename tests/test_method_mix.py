"""mix: whose turn it is, worked by hand; each run is its part's run; mistakes in a part name the key."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from conftest import TINY, merged
from samples import copied, run_data, same_weights
from torch import nn

from ray_unlearn.errors import StudyError
from ray_unlearn.methods.finetune import FinetuneOptions, finetune
from ray_unlearn.methods.mix import MixOptions, mix
from ray_unlearn.methods.negative_gradient_plus import NegativeGradientPlusOptions, negative_gradient_plus
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.methods.shares import part_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import parse_study

PARTS = [{"method": "finetune", "share": 1, "lr": 0.01}, {"method": "negative_gradient_plus", "share": 2, "alpha": 0.5}]


def use(**population):
    """Resolve a population that mixes."""
    tree = merged(TINY, {"populations": {"mine": {"method": "mix", **population}}})
    return resolve(parse_study(tree, where="test"), "mine")


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # one run of three is owed 1/3, 2/3, 1, ...; the other 2/3, 4/3 - 1, ...: second, first, second
        ((1, 2), [1, 0, 1, 1, 0, 1]),
        ((1, 1), [0, 1, 0, 1]),
        ((3, 1), [0, 0, 1, 0, 0, 0, 1, 0]),  # owed 3/4 | 1/2, 1/2: a tie goes to the first | 1/4, 3/4 | ...
        ((5,), [0, 0, 0]),
        ((1, 1, 2), [2, 0, 1, 2]),
    ],
)
def test_whose_turn_it_is(shares, expected):
    """Law: worked by hand, and again from the start after sum(shares) runs."""
    assert [part_of(run, shares) for run in range(len(expected))] == expected


@pytest.mark.parametrize("shares", [(246, 266), (1, 2, 3), (1, 9, 9), (1, 3, 5, 7, 9, 9)])
def test_any_first_runs_are_in_proportion(shares):
    """Law: after N runs no part is 1 - 1 / (2 parts - 2) away from its share of N; after sum(shares), none at all."""
    total, bound = sum(shares), 1 - Fraction(1, 2 * len(shares) - 2)
    turns = [part_of(run, shares) for run in range(total)]
    for n in range(1, total + 1):
        for part, share in enumerate(shares):
            assert abs(turns[:n].count(part) - Fraction(share * n, total)) <= bound
    assert tuple(turns.count(part) for part in range(len(shares))) == shares
    assert part_of(total + 5, shares) == turns[5]


def net():
    """Return a linear net whose start is always the same."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1e-4, 1e-4, 576).reshape(3, 192))
        model[1].bias.zero_()
    return model


def test_each_run_is_its_parts_run(tmp_path):
    """Law: bit for bit what the part makes as a population of its own, from the same streams: 2, 1, 2 by turns."""
    data, options = run_data(tmp_path, normalize="standard"), MixOptions(parts=PARTS, batch_size=5)
    alone = [
        (finetune, FinetuneOptions(lr=0.01, batch_size=5)),
        (negative_gradient_plus, NegativeGradientPlusOptions(alpha=0.5, batch_size=5)),
    ]
    for run, part in enumerate([1, 0, 1, 1]):
        rng = Seeds(study=0, population="mine", run=run)
        mixed, expected = net(), net()
        mix(mixed, data, options, rng)
        method, own = alone[part]
        method(expected, data, own, rng)
        assert same_weights(mixed.state_dict(), expected.state_dict())


def test_parts_inherit_like_populations():
    """Law: training's batches, then the mix's, then a preset's options, then the part's own; all of it identifies."""
    published = {"method": "toshi_marvel", "share": 3, "preset": "competition", "lr": 0.5}
    parts = [published, {**PARTS[0], "batch_size": 9}, PARTS[0]]
    found = use(parts=parts)
    first, second, third = (part.options for part in found.options.parts)
    assert [each.batch_size for each in (first, second, third)] == [64, 9, TINY["training"]["batch_size"]]
    assert (first.lr, first.epochs, second.lr) == (0.5, 3.0, 0.01)
    assert [part.options.batch_size for part in use(parts=parts, batch_size=7).options.parts] == [64, 9, 7]
    assert found.identity["options"]["parts"][0]["options"]["lr"] == 0.5
    assert found.identity["options"]["parts"][0]["share"] == 3
    assert copied(found).options == found.options
    weighted = use(parts=[{**parts[0], "share": 4}, parts[1]]).identity
    assert weighted != found.identity == use(parts=parts, channels_last=True).identity


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([{"method": "fintune", "share": 1}], "parts.0.method: no method 'fintune' that starts from the original (did"),
        ([*PARTS, {"method": "train", "share": 1, "on": "retain"}], "parts.2.method: no method 'train' that starts"),
        ([{"method": "mix", "share": 1, "parts": PARTS}], "parts.0.method: no method 'mix' that starts from the"),
        ([PARTS[0], {**PARTS[1], "alfa": 1}], "parts.1.alfa: unknown key (did you mean 'alpha'?) (method negative_gra"),
        ([{**PARTS[0], "lr": -1}], "parts.0.lr: input should be greater than 0; found -1 (method finetune)"),
        ([{**PARTS[0], "share": 0}], "parts.0.share: input should be greater than or equal to 1; found 0"),
        ([{"method": "finetune"}], "parts.0.share: missing; this key is required"),
        ([{"share": 1}], "parts.0.method: missing; this key is required"),
        (
            [{"method": "toshi_marvel", "share": 1, "preset": "x"}],
            "parts.0.preset: method toshi_marvel has no preset 'x'",
        ),
        ([], "parts: tuple should have at least 1 item"),
        ("kookmin", "parts: input should be a valid tuple; found 'kookmin'"),
        (["kookmin"], "parts.0: input should be a valid dictionary or instance of Part; found 'kookmin'"),
    ],
)
def test_mistakes_in_a_part(parts, expected):
    """Law: refused before any work, in one line with the key's path."""
    with pytest.raises(StudyError) as caught:
        use(parts=parts)
    assert f"populations.mine.{expected}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rates_of_the_mix_itself_are_refused():
    """Law: only how batches are made is common to all parts."""
    with pytest.raises(StudyError, match=r"populations\.mine\.lr: unknown key"):
        use(parts=PARTS, lr=0.1)
