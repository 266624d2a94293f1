"""Examples that each subcommand's --help ends with; a test parses every one.

    app.command(epilog=epilog("plan"))(plan)

Does not cover: the help itself, which is in each subcommand's docstring and options.
"""

from __future__ import annotations

from collections.abc import Sequence

EXAMPLES: dict[str, Sequence[str]] = {
    "quickstart": ["ray-unlearn quickstart", "ray-unlearn quickstart /tmp/digits --backend inline"],
    "init": [
        "ray-unlearn init study.yaml",
        "ray-unlearn init request.yaml --template deletion",
        "ray-unlearn init --schema",
    ],
    "examples": ["ray-unlearn examples", "ray-unlearn examples studies/faces.yaml faces.yaml"],
    "methods": ["ray-unlearn methods", "ray-unlearn methods scrub"],
    "plan": ["ray-unlearn plan study.yaml", "ray-unlearn plan study.yaml --workers 8 --set training.epochs=30"],
    "prepare": ["ray-unlearn prepare study.yaml", "ray-unlearn prepare study.yaml --backend inline"],
    "generate": [
        "ray-unlearn generate study.yaml --workers 2",
        "ray-unlearn generate study.yaml --only finetune --set populations.finetune.count=128",
        "ray-unlearn generate study.yaml --backend inline --workers 4 --shard 2/8",
    ],
    "status": ["ray-unlearn status study.yaml --watch", "ray-unlearn status study.yaml --plot curves.png"],
    "verify": [
        "ray-unlearn verify study.yaml",
        "ray-unlearn verify study.yaml --repair",
        "ray-unlearn verify study.yaml --against theirs.csv",
    ],
    "logs": ["ray-unlearn logs study.yaml finetune/7"],
    "evaluate": ["ray-unlearn evaluate study.yaml", "ray-unlearn evaluate study.yaml --mode exact --jobs 8"],
    "report": [
        "ray-unlearn report study.yaml --images",
        "ray-unlearn report study.yaml --output table.tex --columns population,N,score --figures figures",
    ],
    "export": [
        "ray-unlearn export study.yaml submission.zip --population finetune",
        "ray-unlearn export study.yaml model.pth --population finetune --run 0",
        "ray-unlearn export study.yaml klom --format klom --population retrained,finetune",
        "ray-unlearn export study.yaml hub --format hub",
        "ray-unlearn export study.yaml digests.csv --format digests",
    ],
    "leaderboard": [
        "ray-unlearn leaderboard studies/cifar10 studies/faces -o leaderboard.html",
        "ray-unlearn leaderboard studies/cifar10 --add their-hub -o leaderboard.md",
    ],
    "import": [
        "ray-unlearn import klom retrained=forget_set_2 ascent=ascent.pt --forget forget_set_2.npy -o klom",
        "ray-unlearn import easydub EasyDUB-dataset scrub=scrub.npz --forget-set 2 -o easydub",
        "ray-unlearn import lira experiments -o lira",
    ],
    "forget": [
        "ray-unlearn forget --model model.pth --arch resnet18 --data photos --ids delete.csv --budget 30m -o out",
        "ray-unlearn forget out/study.yaml --budget 2h",
    ],
    "submit": [
        "ray-unlearn submit study.yaml --wait --set storage=s3://bucket/studies",
        "ray-unlearn submit study.yaml --address http://127.0.0.1:8265 --stage evaluate --dry-run",
    ],
    "all": ["ray-unlearn all study.yaml", "ray-unlearn all study.yaml --workers 8 --gpus-per-worker 0.25"],
}


def epilog(command: str) -> str:
    """Return the end of a subcommand's --help text, whose lines stay as they are."""
    lines = EXAMPLES[command]
    return "\b\n" + "\n".join([f"Example{'s' * (len(lines) > 1)}:", *(f"  {line}" for line in lines)])
