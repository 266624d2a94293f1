"""What a store holds, as tables: one row per run, one row per population.

    table = metrics_table(store)                 # pandas; also published as metrics.parquet
    status = study_status(study, store)

Does not cover: scores (evaluation); accuracies here are each run's own.
"""
