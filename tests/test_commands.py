"""Every `ray-unlearn` command that a document or a `--help` shows, run as it stands on a small store of digits.

Commands of the default backend run in this process instead of on Ray. The order is that of the stages, so that each
finds what it works on.

Does not cover: the commands of LEFT_OUT, each with its reason; `test_readme` parses those, too.
"""

from __future__ import annotations

import re
import shlex
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, merged
from evaluated import leave_fits_out
from others_files import FORGET, draw_logits, margins_of, write_klom_oracle, write_klom_unlearned, write_lira
from test_readme import DOCUMENTS, commands_in

from ray_unlearn.cli import main
from ray_unlearn.cli.epilogs import EXAMPLES

LEFT_OUT = {
    r"^submit ": "needs a job server: test_submitting, test_job",
    r"^quickstart": "test_cli_scores runs it",
    r"^forget ": "trains ResNet-18 for half an hour: test_deletion asks the same of a small net",
    r"--jobs 8|--workers|--gpus-per-worker": "shares work out on Ray: test_cli_scores, test_ray",
    r"EasyDUB-dataset": "a folder of 40 files: test_interchange writes and imports it",
    r"--figures": "twelve pictures as PDF and SVG: test_report_paper",
    r"^leaderboard |--against": "reads other people's stores and digests: test_leaderboard",
    r"five-methods": "reads the store of a benchmark",
    r"NAME|I/K": "a placeholder stands for a name",
}
STAGES = ("init", "examples", "methods", "import", "plan", "prepare", "generate", "status", "verify", "logs", "all")
"""The order of the commands; those that are not named come between the last two."""


def shown() -> list[str]:
    """Return the commands without their first word, each once."""
    lines = [*(one for text in DOCUMENTS.values() for one in commands_in(text)), *chain(*EXAMPLES.values())]
    return list(dict.fromkeys(" ".join(line.removeprefix("ray-unlearn ").split()) for line in lines))


def is_left_out(command: str) -> bool:
    return any(re.search(pattern, command) for pattern in LEFT_OUT)


def place_of(command: str) -> int:
    name = command.partition(" ")[0]
    return STAGES.index(name) if name in STAGES else len(STAGES) - 2


def write_inputs(folder: Path) -> None:
    """Write the study, and other programs' files, under the names that the commands have."""
    populations = {
        "retrained": {"method": "train", "on": "retain", "count": 6},
        "finetune": {"count": 6},
        "mine": {"method": "finetune", "count": 8},
    }
    tree = merged(TINY, {"populations": populations, "outputs": {"splits": ["retain", "forget", "test"]}})
    (folder / "study.yaml").write_text(yaml.safe_dump(tree | {"storage": "studies"}))
    margins = margins_of(draw_logits(4, 0))
    for name in ("oracles/forget_set_2", "forget_set_2"):
        write_klom_oracle(folder / name, margins)
    write_klom_unlearned(folder / "ascent.pt", {5: margins_of(draw_logits(4, 1))})
    np.save(folder / "forget_set_2.npy", FORGET)
    write_lira(folder / "experiments", draw_logits(4, 2), np.random.default_rng(0).random((4, 40)) < 0.5)


def test_every_command_that_is_shown_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Law: each ends with 0 where what it names is there, and what it writes is not."""
    commands = [command for command in shown() if not is_left_out(command)]
    assert len(commands) > 30
    leave_fits_out(monkeypatch)
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for number, command in enumerate(sorted(commands, key=place_of)):
        name, *arguments = shlex.split(command.replace("count=128", "count=9"))
        if name in ("prepare", "generate", "all") and "--backend" not in arguments:
            arguments += ["--backend", "inline"]
        place = {"import": -1, "export": 1}.get(name)
        if place is not None and Path(arguments[place]).exists():  # two examples write the same file or folder
            arguments[place] = f"{number}-{arguments[place]}"
        if name in ("init", "examples"):
            (tmp_path / f"empty-{number}").mkdir()
            monkeypatch.chdir(tmp_path / f"empty-{number}")
        code = main([name, *arguments])
        said = capsys.readouterr()
        monkeypatch.chdir(tmp_path)
        if code:
            wrong[command] = code, said.err
    assert wrong == {}


@pytest.mark.parametrize("pattern", LEFT_OUT)
def test_what_is_left_out_is_shown_somewhere(pattern: str):
    """Law: a reason goes with its command."""
    assert any(re.search(pattern, command) for command in shown())
