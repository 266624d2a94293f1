"""The results of an evaluation for people: a page, Markdown, or lines on a terminal, all from the same tables.

    text = html_page(scores, study)              # one self-contained file; markdown_page, score_lines for text
    address = publish(store, "html")             # the last evaluation's, into the store

Does not cover: computing scores (evaluation), the table of metrics (store).
"""
