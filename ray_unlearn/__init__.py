"""ray_unlearn: populations of seeded unlearned and retrained checkpoints, from one study file.

    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    study = load_study("faces.yaml", overrides=["populations.finetune.count=8"])
    summary = generate(study, backend="inline")
    print(summary.made, summary.failed)

The command line (`ray-unlearn --help`) is the same calls, one subcommand per stage. Nothing is imported here,
so that `ray_unlearn.study` costs neither torch nor Ray.

Does not cover: scores of populations; they need only the outputs that a study publishes.
"""

__version__ = "0.2.0"
