"""Randomness in a script that no seed of a run reaches: named before any run, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY, merged

from ray_unlearn.methods.resolve import remarks, resolve
from ray_unlearn.methods.unrepeatable import draws_anew
from ray_unlearn.study import parse_study


@pytest.mark.parametrize(
    "call",
    [
        "np.random.default_rng()",
        "np.random.default_rng(None)",
        "np.random.default_rng(seed=None)",
        "numpy.random.RandomState()",
        "random.Random()",
        "random.SystemRandom()",
        "random.seed()",
        "np.random.seed(None)",
        "torch.seed()",
        "torch.Generator().seed()",
        "random.seed(time.time())",
        "torch.manual_seed(int(time.time() * 1000) % 2 ** 32)",
        "np.random.seed(os.getpid())",
        "torch.cuda.manual_seed_all(seed=time.time_ns())",
        "random.Random(datetime.datetime.now().timestamp())",
        "np.random.default_rng(int.from_bytes(os.urandom(4), 'little'))",
    ],
)
def test_a_generator_that_no_run_seeds(call):
    """Law: a generator without a seed, or with one of the clock, the process or the system, is named once."""
    assert draws_anew(f"import random\n\ndef unlearning(net, *loaders):\n    rng = {call}\n") == [(4, call)]


@pytest.mark.parametrize(
    "line",
    [
        "np.random.default_rng(0)",
        "np.random.default_rng(int(torch.randint(2**31, ())))",
        "torch.manual_seed(args.seed)",
        "random.seed(1)",
        "torch.randn(3)",
        "began = time.time()",
        "print(time.time() - 3, os.getpid())",
        "config.seed()",
        "transforms.RandomCrop(32)",
        "torch.Generator()",  # torch's begin at a number of their own, which is always the same
        "rng.normal(time.time())",
    ],
)
def test_what_repeats(line):
    """Law: seeded generators, global ones, times that seed nothing, and other functions of these names are not."""
    assert draws_anew(f"{line}\n") == []


def test_a_seed_by_way_of_a_name():
    """Law: a name that holds the time is followed to where it seeds; the same name elsewhere is nothing."""
    source = "import time\nseed = int(time.time())\nprint(seed)\ntorch.manual_seed(seed)\nrandom.seed(seed + 1)\n"
    assert draws_anew(source) == [(4, "torch.manual_seed(seed)"), (5, "random.seed(seed + 1)")]


def test_a_study_says_so_for_the_script_and_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: one line a population, with file, line and call, and the number of others."""
    monkeypatch.setattr("ray_unlearn.methods.resolve.check_script_form", lambda method, source: None)  # a process less
    (tmp_path / "draws.py").write_text("import random\n\ndef order():\n    return random.Random()\n")
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom draws import order\n\n"
        "def unlearning(net, retain_loader, forget_loader, val_loader):\n    np.random.default_rng().normal()\n"
    )
    method = f"{tmp_path}/mine.py:unlearning"
    study = parse_study(merged(TINY, {"populations": {"mine": {"method": method}}}), where="test")
    (line,) = remarks(study, {name: resolve(study, name) for name in study.populations})
    assert line.startswith(
        "population mine: its script draws what no seed of a run reaches (mine.py:5: np.random.default_rng(), and 1 "
        "more), so a run that is made again has other bytes"
    )
