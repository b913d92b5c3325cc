"""The page of a report, drawn by matplotlib: lines of text and rows of panels, one under another.

Places are reckoned in inches from the upper left corner, and text that must not run into its neighbours is set in a
font of one width. So nothing overlaps, however many runs, curves and flags a page shows; a test holds it to that.
"""

import dataclasses
import math
import typing

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH, MARGIN, DPI = 16.0, 0.5, 120
SIZE, LINE_HEIGHT = 9.5, 0.19  # points of the text's font, inches of its lines
HEADING_HEIGHT, GAP = 0.34, 0.16
SAMPLE_WIDTH = 0.55  # of a curve's sample before a line
# Letters of DejaVu Sans Mono in a line: each 0.602 of the font's size, and a whole number of dots.
COLUMNS = int((WIDTH - 2 * MARGIN - SAMPLE_WIDTH) / (math.ceil(0.602 * SIZE / 72 * DPI) / DPI))

# Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow, too pale for a line;
# and a mark for each, for those who print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"

# Scripts that matplotlib's own font lacks, where a font of the system has them.
_FALLBACKS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans", "Unifont")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a curve is drawn."""

    colour: str
    width: float = 1.8
    mark: str = ""
    dashed: bool = False
    alpha: float = 1.0

    def line(self, x, y, **more):
        """The `Line2D` through points."""
        return Line2D(
            x,
            y,
            color=self.colour,
            linewidth=self.width,
            marker=self.mark or None,
            markersize=4.5,
            linestyle="--" if self.dashed else "-",
            alpha=self.alpha,
            **more,
        )


REFERENCE = Style(GREY, 1.1, dashed=True)


class Curve(typing.NamedTuple):
    """A curve of a panel; `y` may hold NaN."""

    x: np.ndarray
    y: np.ndarray
    style: Style


@dataclasses.dataclass(frozen=True)
class Panel:
    """A diagram.

    Attributes:
        title: What it shows.
        unit: Of its vertical axis.
        over: The horizontal axis, with its unit.
        curves: `Curve`s.
        reference: A value to compare with, or None.
        from_zero: Whether the vertical axis begins at 0.
        falling: Whether the first tenth of each curve may lie above the panel: a loss that falls from that of a
            guess would press all that comes later flat.
    """

    title: str
    unit: str
    over: str
    curves: tuple
    reference: float | None = None
    from_zero: bool = False
    falling: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
    """Lines under a heading.

    Attributes:
        heading: In bold; none if empty.
        lines: Each `COLUMNS` letters at most.
        samples: {index of a line: `Style` of the curve whose sample stands before it}.
    """

    heading: str
    lines: tuple
    samples: dict = dataclasses.field(default_factory=dict)

    @property
    def height(self):
        """Inches."""
        return self._heading_height + LINE_HEIGHT * len(self.lines) + GAP

    @property
    def _heading_height(self):
        return HEADING_HEIGHT if self.heading else 0

    def draw(self, sheet, top):
        """Draws it on a `_Sheet`."""
        if self.heading:
            sheet.text(MARGIN, top, self.heading, size=12, weight="bold")
        for i, line in enumerate(self.lines):
            place = top + self._heading_height + LINE_HEIGHT * i
            sheet.text(MARGIN + SAMPLE_WIDTH * bool(self.samples), place, line, size=SIZE, family=_monospaced())
            if i in self.samples:
                sheet.sample(MARGIN, place + LINE_HEIGHT * 0.42, self.samples[i])


@dataclasses.dataclass(frozen=True)
class Row:
    """Panels side by side."""

    panels: tuple
    height: float = 2.75

    def draw(self, sheet, top):
        """Draws it on a `_Sheet`."""
        width = (WIDTH - 2 * MARGIN) / len(self.panels)
        drawn = {}
        for i, panel in enumerate(self.panels):
            left = MARGIN + width * i
            axes = sheet.axes(left + 0.62, top + 0.32, width - 0.92, self.height - 0.95)
            _draw_panel(axes, panel)
            # Two views of one thing have one vertical axis.
            axes.set_ylim(drawn.setdefault(panel.title, axes.get_ylim()))


def page(title, blocks):
    """The matplotlib `Figure` of a title and of `Text`s and `Row`s, from top to bottom."""
    blocks = [b for b in blocks if b is not None]
    height = 0.85 + sum(b.height for b in blocks) + MARGIN / 2
    sheet = _Sheet(height)
    sheet.text(MARGIN, 0.3, title, size=17, weight="bold")
    top = 0.85
    for block in blocks:
        block.draw(sheet, top)
        top += block.height
    return sheet.figure


class _Sheet:
    """A figure whose places are inches from its upper left corner."""

    def __init__(self, height):
        self.figure, self._height = Figure((WIDTH, height), dpi=DPI, facecolor="white"), height

    def _place(self, left, top):
        return left / WIDTH, 1 - top / self._height

    def text(self, left, top, text, **font):
        # A dollar sign is one, and no formula.
        self.figure.text(*self._place(left, top), text, va="top", parse_math=False, **font)

    def sample(self, left, top, style):
        x, y = self._place(left, top)
        ends = [x, x + 0.36 / WIDTH]
        self.figure.add_artist(style.line(ends, [y, y], transform=self.figure.transFigure))

    def axes(self, left, top, width, height):
        x, y = self._place(left, top + height)
        return self.figure.add_axes((x, y, width / WIDTH, height / self._height))


def _monospaced():
    known = font_manager.get_font_names()
    return ["DejaVu Sans Mono", *(name for name in _FALLBACKS if name in known)]


def _power(curves):
    """The power of ten that an axis is reckoned in, so that its numbers are short; 0 for ordinary ones."""
    largest = max((np.nanmax(np.abs(c.y)) for c in curves), default=0)
    return math.floor(math.log10(largest)) if 0 < largest < 0.01 else 0


def _in_thousands(value, _):
    """`500`, `2,000`, `20k`, `1.5M`: a step as an axis names it."""
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e6 if letter == 'M' else 1e3):g}{letter}"
    return f"{value:,g}"


def _settled_top(curves):
    """The largest value of curves behind the first tenth of each."""
    return max(np.nanmax(c.y[c.x >= 0.1 * c.x[-1]], initial=-np.inf) for c in curves)


def _draw_panel(axes, panel):
    curves = [c for c in panel.curves if np.isfinite(c.y).any()]
    power = _power(curves)
    for curve in curves:
        # A mark on each of many points would hide the line.
        every = max(1, len(curve.x) // 25)
        axes.add_line(curve.style.line(curve.x, curve.y / 10.0**power, markevery=every))
    if panel.reference is not None and curves:
        axes.add_line(REFERENCE.line([0, 1], [panel.reference] * 2, transform=axes.get_yaxis_transform()))
    axes.autoscale_view()
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    if panel.falling and curves and _settled_top(curves) > axes.dataLim.y0:
        axes.set_ylim(top=_settled_top(curves) + 0.06 * (_settled_top(curves) - axes.dataLim.y0))
    unit = panel.unit + (f" (10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))})" if power else "")
    axes.set_title(panel.title, loc="left", size=11, weight="bold", pad=6)
    axes.set_xlabel(panel.over, size=10)
    axes.set_ylabel(unit, size=10)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(_in_thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}"))
    axes.tick_params(labelsize=9.5, color=GREY)
    if not curves:
        axes.text(0.5, 0.5, "not reported", transform=axes.transAxes, ha="center", va="center", color=GREY, size=11)
        axes.set_xticks([])
        axes.set_yticks([])
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
