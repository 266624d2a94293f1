"""Matplotlib figures -> small inline SVG with the page's colours, light or dark.

    with ink():
        figure = canvas(360, 220)
        axes = plot_area(figure, left=44, bottom=40)
        axes.plot([1, 2], [0.1, 0.2], color=METHOD)
        svg = picture(figure, name="growth-kookmin", alt="F rises from 0.1 at N = 1 to 0.2 at N = 2")

Figures are drawn with stand-in colours, which become CSS variables (`--method`, `--reference`, ...); text stays text in
the page's font. The same figure gives the same bytes.

Does not cover: the pictures (`overview_pictures`, `image_pictures`, `curve_pictures`), the colours (`page.css`).
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba_array
from matplotlib.figure import Figure

INK, MUTED, RULE, BAND = "#010101", "#020202", "#030303", "#040404"
METHOD, REFERENCE, PAPER, LIMIT = "#050505", "#060606", "#070707", "#080808"
SERIES = tuple(f"#0901{place:02x}" for place in range(4))
"""Retain, forget, validation, test."""
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    BAND: "band",
    METHOD: "method",
    REFERENCE: "reference",
    PAPER: "paper",
    LIMIT: "limit",
} | {colour: f"series-{place}" for place, colour in enumerate(SERIES)}

_LIGHT = {
    INK: "#1b1e23",
    MUTED: "#626873",
    RULE: "#e4e6ea",
    BAND: "#dfe3e8",
    METHOD: "#0b6bb0",
    REFERENCE: "#737b87",
    PAPER: "#ffffff",
    LIMIT: "#b3471d",
} | dict(zip(SERIES, ("#8a909b", "#c2500a", "#00805d", "#0b6bb0"), strict=True))
"""The light colours of `page.css`, for figures without a page."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ray_unlearn",
    "text.parse_math": False,  # names come from users; a dollar sign is a dollar sign
    "axes.unicode_minus": True,
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "xtick.major.pad": 6,
    "ytick.major.pad": 5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def ink() -> Iterator[None]:
    """Draw with stand-in colours inside this block; matplotlib's settings are restored after it."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Matplotlib's own fonts only measure; the browser's have the glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


_KEPT: ContextVar[list[Figure] | None] = ContextVar("kept figures", default=None)


@contextmanager
def kept() -> Iterator[list[Figure]]:
    """Yield a list, to which every picture drawn inside this block adds its figure."""
    figures: list[Figure] = []
    token = _KEPT.set(figures)
    try:
        yield figures
    finally:
        _KEPT.reset(token)


def for_paper(figure: Figure, form: str) -> bytes:
    """Return a figure as a file of its own, `pdf` or `svg`, in the page's light colours.

    The same figure gives the same bytes: the file holds no date.
    """
    with ink(), mpl.rc_context({"pdf.fonttype": 42}):
        for artist in figure.findobj():
            for part in _COLOURED:
                old = getattr(artist, f"get_{part}", None)
                if old is not None:
                    getattr(artist, f"set_{part}")(_light(old()))
        buffer = io.BytesIO()
        dates = {"pdf": ("CreationDate", "Creator", "Producer"), "svg": ("Date", "Creator")}[form]
        figure.savefig(buffer, format=form, metadata=dict.fromkeys(dates))
    return buffer.getvalue()


_COLOURED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def _light(colour: Any) -> Any:
    """Return the page's light colour for a stand-in, with its transparency; anything else as it is."""
    if isinstance(colour, str) and colour in ("none", "auto"):
        return colour
    shades = to_rgba_array(colour)
    light = [(*to_rgb(_LIGHT[key]), one[3]) if (key := to_hex(one[:3])) in _LIGHT else tuple(one) for one in shades]
    return light[0] if len(light) == 1 else light


def canvas(width: int, height: int) -> Figure:
    """Return an empty figure of this width and height in CSS pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def plot_area(figure: Figure, *, left: int, bottom: int = 38, right: int = 10, top: int = 10) -> Axes:
    """Return axes within margins in CSS pixels, so that panels side by side line up."""
    width, height = 72 * figure.get_size_inches()
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure.add_axes(box, facecolor="none")


def picture(figure: Figure, *, name: str, alt: str) -> str:
    """Return the figure as an `<svg>` element with a title.

    Args:
        figure: drawn within `ink()`.
        name: name that is unique on the page; ids inside the picture start with it.
        alt: description in words and numbers.

    """
    figures = _KEPT.get()
    if figures is not None:
        figures.append(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inlined(buffer.getvalue(), name, alt)


def _inlined(svg: str, name: str, alt: str) -> str:
    body = svg[svg.index("<g id=") : svg.rindex("</svg>")]
    box = re.search(r'viewBox="([^"]+)"', svg)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _for_the_page(tag[0]), _own_ids(body, name))
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><").replace("<g></g>", "")
    title = html.escape(alt)
    return f'<svg class="picture" role="img" viewBox="{box[1] if box else ""}"><title>{title}</title>{body}</svg>'


def _for_the_page(tag: str) -> str:
    """Return a tag with the page's colours and font, and lengths rounded to tenths of a pixel."""
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), tag)


def _own_ids(body: str, name: str) -> str:
    """Remove ids without references, and prefix the others: no two pictures of a page may share an id."""
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', body))
    new = {old: f"{name}-{place}" for place, old in enumerate(sorted(used))}
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{new[found[1]]}"' if found[1] in new else "", body)
    return re.sub(r'(xlink:href="|url\()#([^")]+)', lambda found: f"{found[1]}#{new[found[2]]}", body)
