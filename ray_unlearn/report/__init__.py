"""What a store holds and what evaluation found, to be looked at.

    table = metrics_table(store)                 # pandas; also published as metrics.parquet
    status = study_status(study, store)
    page = html_page(scores, study)              # one self-contained file; markdown_page, score_lines for text

Does not cover: computing scores (evaluation).
"""
