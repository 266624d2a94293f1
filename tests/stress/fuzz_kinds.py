"""What is fuzzed: each kind writes damaged files into a folder and names the commands that meet them.

    attack = KINDS["parquet"](Bench(root, template), rng)
    attack.commands                              # [["prepare", "<root>/a/b/study.yaml", "--backend", "inline"]]

Every command goes through the real command line, in this process.

Does not cover: what counts as a violation (`fuzz_judge`).
"""

import os
from pathlib import Path

import yaml
from fuzz_bench import Kind
from fuzz_hostile import bomb, shard, special
from fuzz_sources import csv, image, override, parquet, resolved, study, weights
from fuzz_stores import arguments, arrow, record
from fuzz_study import TREE

KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        *(study, resolved, override, parquet, csv, image, weights, record, arrow, arguments),
        *(shard, special, bomb),
    )
}


def make_template(folder: Path) -> Path:
    """Generate and evaluate `TREE` below a folder; return the folder."""
    from ray_unlearn.cli import main

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(TREE, sort_keys=False))
    study = os.fspath(folder / "study.yaml")
    for command in (["generate", study, "--backend", "inline"], ["evaluate", study, "--jobs", "1"], ["report", study]):
        if main(command):
            raise RuntimeError(f"{command} failed; there is nothing to damage")
    return folder
