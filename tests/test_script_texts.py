"""What a script's text tells before any run: randomness that no seed of a run reaches, images that are scaled again."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TINY, merged

from ray_unlearn.methods.rescaling import rescales
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
        "class Random:\n    pass\nstrategy = Random()",
        "tp.importance.Random()",
        "t = time.time()\nfor t in range(3):\n    torch.manual_seed(t)",
        "if __name__ == '__main__':\n    torch.manual_seed(int(time.time()))\n    random.Random()",
    ],
)
def test_what_repeats(line):
    """Law: seeded generators, global ones, times that seed nothing, other functions and classes of these names, and
    what only a main program does are not.
    """
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


@pytest.mark.parametrize(
    "text",
    [
        "batch['image'] / 255",
        "x.float() / 255.0",
        "transforms.Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))",
        "v2.Normalize(MEAN, STD)",
        "TF.normalize(x, mean=MEAN, std=STD)",
    ],
)
def test_images_that_a_script_scales(text: str):
    """Law: a division by 255, and a normalisation by mean and standard deviation, are named with their line."""
    assert rescales(f"def unlearning(net, *loaders):\n    images = {text}\n") == [(2, text)]
    assert rescales("images /= 255\n") == [(1, "images /= 255")]


@pytest.mark.parametrize("text", ["8 / 255", "F.normalize(features, dim=1)", "x / 256", "x * 255", "x / scale"])
def test_what_scales_no_image(text: str):
    """Law: a number of the attack's kind, vectors of length one, and other factors are not."""
    assert rescales(f"y = {text}\n") == []


@pytest.mark.parametrize(("normalize", "count"), [("standard", 1), ("unit", 0), ("raw", 0)])
def test_a_script_that_scales_again_is_said_to(normalize: str, count: int, tmp_path: Path, monkeypatch):
    """Law: only where the study has subtracted a mean; pixels of 0..255 and of 0..1 are for scripts to scale."""
    monkeypatch.setattr("ray_unlearn.methods.resolve.check_script_form", lambda method, source: None)
    (tmp_path / "mine.py").write_text("def unlearning(net, retain, forget, validation):\n    x = retain / 255\n")
    changes = {"data": {"normalize": normalize}, "populations": {"mine": {"method": f"{tmp_path}/mine.py:unlearning"}}}
    study = parse_study(merged(TINY, changes), where="test")
    lines = remarks(study, {name: resolve(study, name) for name in study.populations})
    assert len(lines) == count
    assert all(
        "its script seems to scale images (mine.py:2: retain / 255), which data.normalize" in one for one in lines
    )
