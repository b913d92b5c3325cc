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

from tfbert.watching import views

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
_GROUP_LETTERS = 60  # of the label of a group of values
_TITLE_WIDTH = 1.9  # inches that a matrix has at least, for its title
_LABEL_LETTERS = 26  # of a label beside a confusion matrix
_MOST_NUMBERED = 25  # labels of a confusion matrix whose cells have room for numbers

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
    mark_size: float = 4.5
    joined: bool = True
    stepped: bool = False

    def line(self, x, y, **more):
        """The `Line2D` through points, or of points alone."""
        return Line2D(
            x,
            y,
            color=self.colour,
            linewidth=self.width,
            marker=self.mark or None,
            markersize=self.mark_size,
            markeredgewidth=0 if not self.joined else None,
            linestyle=("--" if self.dashed else "-") if self.joined else "None",
            drawstyle="steps-mid" if self.stepped else "default",
            alpha=self.alpha,
            **more,
        )


REFERENCE = Style(GREY, 1.1, dashed=True)
BEST = Style("#000000", mark="*", mark_size=13, joined=False)


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
        names: What the legend calls the first curves; none for no legend.
        limits: (left, right, bottom, top) of the axes, or None.
        most_height: Inches that it takes in a row at most.
    """

    title: str
    unit: str
    over: str
    curves: tuple
    reference: float | None = None
    from_zero: bool = False
    falling: bool = False
    names: tuple = ()
    limits: tuple | None = None
    most_height: float = math.inf

    @property
    def insets(self):
        """Inches that labels and title take on the left, above, on the right and below."""
        return 0.62, 0.32, 0.30, 0.63

    def draw(self, axes):
        """Draws it on matplotlib's axes."""
        _draw_panel(axes, self)


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        title: What it shows.
        confusion: A `views.Confusion`.
        cell: Inches of a cell.
    """

    title: str
    confusion: typing.Any
    cell: float
    most_height = math.inf  # as of `Panel`

    @property
    def _labels(self):
        most = _LABEL_LETTERS
        return [label if len(label) <= most else label[: most - 1] + "…" for label in self.confusion.labels]

    @property
    def _size(self):
        """Points of the labels' font."""
        return min(9.5, 0.75 * 72 * self.cell)

    @property
    def side(self):
        """Inches of the matrix itself."""
        return self.cell * len(self.confusion.labels)

    @property
    def insets(self):
        """As of `Panel`."""
        letters = max(map(len, self._labels))
        room = 0.72 * self._size / 72 * letters + 0.1
        return 0.45 + room, 0.32, 0.3, 0.4 + room

    @property
    def width(self):
        """Inches that it takes in a row."""
        return max(self.side, _TITLE_WIDTH) + self.insets[0] + self.insets[2]

    @property
    def height(self):
        """Inches that it takes in a row."""
        return self.side + self.insets[1] + self.insets[3]

    def draw(self, axes):
        """Draws it on matplotlib's axes."""
        _draw_matrix(axes, self, self._labels, self._size)


@dataclasses.dataclass(frozen=True)
class Dots:
    """Groups of values, one under another: a dot for each value, a bar for mean and deviation.

    Attributes:
        title: What it shows.
        unit: Of the values.
        groups: (label, values, mean, deviation), from top to bottom.
    """

    title: str
    unit: str
    groups: tuple
    most_height = math.inf  # as of `Panel`

    @property
    def insets(self):
        """As of `Panel`."""
        letters = max(min(len(label), _GROUP_LETTERS) for label, *_ in self.groups)
        return 0.3 + 0.075 * letters, 0.32, 0.3, 0.63

    @property
    def height(self):
        """Inches that it takes in a row."""
        return max(1.4, 0.32 * len(self.groups)) + self.insets[1] + self.insets[3]

    def draw(self, axes):
        """Draws it on matplotlib's axes."""
        _draw_dots(axes, self)


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
    """Panels side by side.

    Attributes:
        panels: `Panel`s or a `Matrix`.
        height: Inches.
        widths: Inches of each panel; none for equal ones.
    """

    panels: tuple
    height: float = 2.75
    widths: tuple = ()

    def draw(self, sheet, top):
        """Draws it on a `_Sheet`."""
        widths = self.widths or ((WIDTH - 2 * MARGIN) / len(self.panels),) * len(self.panels)
        left, drawn = MARGIN, {}
        for panel, width in zip(self.panels, widths, strict=True):
            before, above, after, below = panel.insets
            height = min(self.height, panel.most_height)
            axes = sheet.axes(left + before, top + above, width - before - after, height - above - below)
            panel.draw(axes)
            # Two views of one thing have one vertical axis.
            axes.set_ylim(drawn.setdefault(panel.title, axes.get_ylim()))
            left += width


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
        xs = [x, x + 0.36 / WIDTH] if style.joined else [x + 0.18 / WIDTH]
        self.figure.add_artist(style.line(xs, [y] * len(xs), transform=self.figure.transFigure))

    def axes(self, left, top, width, height):
        x, y = self._place(left, top + height)
        return self.figure.add_axes((x, y, width / WIDTH, height / self._height))


def _fonts(first):
    known = font_manager.get_font_names()
    return [first, *(name for name in _FALLBACKS if name in known)]


def _monospaced():
    return _fonts("DejaVu Sans Mono")


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
        every = max(1, len(curve.x) // 25) if curve.style.joined else 1
        axes.add_line(curve.style.line(curve.x, curve.y / 10.0**power, markevery=every))
    if panel.reference is not None and curves:
        axes.add_line(REFERENCE.line([0, 1], [panel.reference] * 2, transform=axes.get_yaxis_transform()))
    axes.autoscale_view()
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    if panel.limits:
        axes.set_xlim(*panel.limits[:2])
        axes.set_ylim(*panel.limits[2:])
    if panel.names and curves:
        axes.legend(axes.lines[: len(panel.names)], panel.names, prop={"family": _fonts("DejaVu Sans"), "size": 8.5})
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


def _draw_matrix(axes, matrix, labels, size):
    """Draws a confusion matrix; cells of few labels bear their counts."""
    counts = matrix.confusion.counts
    colours = views.cell_colours(counts)
    axes.imshow(colours, interpolation="nearest", aspect="equal")
    axes.set_anchor("NW")
    axes.set_title(matrix.title, loc="left", size=11, weight="bold", pad=6)
    axes.set_xlabel(f"predicted ({matrix.confusion.of})", size=10)
    axes.set_ylabel("truth", size=10)
    family = _fonts("DejaVu Sans")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(labels)), labels, size=size, family=family, parse_math=False)
        axis.set_ticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(which="both", length=0)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(labels) <= _MOST_NUMBERED:
        for row, column in np.argwhere(counts):
            ink = "black" if colours[row, column].mean() > 140 else "white"
            axes.text(
                column, row, views.brief(int(counts[row, column])), ha="center", va="center", color=ink, size=size
            )


def _draw_dots(axes, dots):
    """Draws groups of values."""
    for place, (_, values, mean, deviation) in enumerate(dots.groups):
        axes.errorbar(
            [mean], [place], xerr=[deviation], fmt="|", color=COLOURS[0], markersize=13, linewidth=2, capsize=4
        )
        axes.plot(values, [place] * len(values), "o", color=COLOURS[1], markersize=5, alpha=0.7, zorder=3)
    labels = [label if len(label) <= _GROUP_LETTERS else label[: _GROUP_LETTERS - 1] + "…" for label, *_ in dots.groups]
    axes.yaxis.set_ticks(range(len(labels)), labels, size=9, family=_fonts("DejaVu Sans"), parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_title(dots.title, loc="left", size=11, weight="bold", pad=6)
    axes.set_xlabel(dots.unit, size=10)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=9.5, color=GREY)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
