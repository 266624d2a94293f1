"""What searches tuned presets, on its way to `jobs/presets`.

    results = tune_trials(study, trials, seeds=3)

Does not cover: `generate` (`ray_unlearn.generation`), and Ray (`ray_unlearn.cluster`).
"""
