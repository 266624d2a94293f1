"""The results of an evaluation for people: a page, Markdown, or lines on a terminal, all from the same tables.

    text = html_page(scores, study)              # one self-contained file; markdown_page, score_lines for text
    address = publish(store, "html")             # the last evaluation's, into the store
    ray_unlearn.report(study)                    # the module is also a function: that of `notebook`

Does not cover: computing scores (evaluation), the table of metrics (store).
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that can be called: the package has a room and a function of the name `report`."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Return the package's function `report` of the arguments."""
        import ray_unlearn

        return ray_unlearn._report(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
