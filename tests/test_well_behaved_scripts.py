"""Scripts of the competition's form that behave: a process of their own changes no byte of their runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import payload_bytes

from ray_unlearn.generation import generate, open_job
from ray_unlearn.models import checkpoint_bytes
from ray_unlearn.run.worker import Worker
from ray_unlearn.study import Study

TRAIN = """\
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net.train()
    for batch in {loader}:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy({net}(batch["image"]), batch["age_group"]).backward()
        optimizer.step()
"""
NOISE = """\
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * {scale}, alpha=0.01)
"""


def plain(loader: str = "retain", net: str = "net") -> str:
    return TRAIN.format(loader=loader, net=net)


SCRIPTS = {
    "plain": NOISE.format(scale="float(numpy.random.rand() + random.random())") + plain(),
    "own_loader": (
        "    own = DataLoader(ConcatDataset([retain.dataset, forget.dataset]), 16, shuffle=True)\n" + plain("own")
    ),
    "teacher_copy": (
        "    teacher = copy.deepcopy(net).eval()\n"
        "    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)\n"
        "    for one, other in zip(retain, itertools.cycle(forget)):\n"
        "        with torch.no_grad():\n"
        "            wanted = teacher(one['image']).softmax(1)\n"
        "        loss = torch.nn.functional.cross_entropy(net(one['image']), wanted)\n"
        "        loss = loss - 0.1 * torch.nn.functional.cross_entropy(net(other['image']), other['age_group'])\n"
        "        optimizer.zero_grad()\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
    ),
    "samplers": (
        "    weights = torch.rand(len(retain.dataset))\n"
        "    own = DataLoader(retain.dataset, 16, sampler=WeightedRandomSampler(weights, 48))\n" + plain("own")
    ),
    "num_workers": "    own = DataLoader(retain.dataset, 16, shuffle=True, num_workers=2)\n" + plain("own"),
    "compiled": "    fast = torch.compile(net)\n" + plain("itertools.islice(retain, 2)", "fast"),
}
IMPORTS = (
    "import copy, itertools, random\nimport numpy, torch\n"
    "from torch.utils.data import ConcatDataset, DataLoader, WeightedRandomSampler\n\n\n"
)
SETS = [
    pytest.param([name for name in SCRIPTS if name != "compiled"], id="eager"),
    pytest.param(
        ["compiled"],
        id="compiled",
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler of C++"),
        ],
    ),
]


@pytest.fixture
def scripted(tiny, tmp_path: Path) -> Callable[..., Study]:
    """Return a function: names of scripts -> a study with two runs of each."""

    def make(*names: str, storage: str = "store") -> Study:
        populations: dict[str, object] = {"finetune": None}
        for name in names:
            source = f"{IMPORTS}def unlearning(net, retain, forget, val):\n{SCRIPTS[name]}"
            (tmp_path / f"{name}.py").write_text(source)
            populations[name] = {"method": f"{tmp_path}/{name}.py:unlearning", "count": 2, "batch_size": 16}
        return tiny(populations=populations, storage=str(tmp_path / storage))

    return make


def in_this_process(study: Study) -> dict[str, bytes]:
    """Return the checkpoints of scripts' runs, each called in this process, as versions before this did."""
    job = open_job(study)
    worker = Worker(job, "cpu")
    worker.open()
    found = {}
    try:
        for name, population in job.plan.populations.items():
            for run in population.runs if population.method.source else ():
                data = checkpoint_bytes(worker.trained_here(run), "fp32")
                found[f"{name}/{run.index:05d}/model.safetensors"] = data
    finally:
        worker.close()
    return found


@pytest.mark.parametrize("names", SETS)
def test_a_process_of_its_own_changes_no_byte(scripted, tmp_path, names: list[str]):
    """Law: the checkpoints are those of the same calls in this process; no two runs of a script are alike."""
    study = scripted(*names)
    assert generate(study, backend="inline").failed == {}
    here = in_this_process(study)
    apart = {name: data for name, data in payload_bytes(tmp_path / "store/tiny").items() if name in here}
    assert apart == here
    assert len(set(apart.values())) == 2 * len(names)


@pytest.mark.ray
@pytest.mark.parametrize("names", SETS)
def test_well_behaved_scripts_give_the_same_bytes_on_ray(scripted, tmp_path, ray_cluster, names: list[str]):
    """Law: inline and on Ray the bytes are the same. Which of two workers makes a run is no matter: test_forked.py."""
    assert generate(scripted(*names), backend="inline").failed == {}
    assert generate(scripted(*names, storage="ray"), backend="ray", workers=1).failed == {}
    assert payload_bytes(tmp_path / "ray/tiny") == payload_bytes(tmp_path / "store/tiny")
