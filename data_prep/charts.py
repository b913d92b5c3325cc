"""Bar charts as inline SVG, without any dependency; colours are CSS variables of the page."""

import html
import math

WIDTH, HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 14, 34
_NAME_WIDTH, _VALUE_WIDTH, _ROW_HEIGHT = 118, 118, 19


def number(x):
    """A number as a person writes it: 12,345, 3.25, 0.0013."""
    if x == int(x):
        return f"{int(x):,}"
    return f"{x:,.2f}" if abs(x) >= 0.1 else f"{x:.2g}"


def share(part, whole):
    """A share in per cent; what is there at all is never 0."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.1 or not part else f"{percent:.1g} %" if percent >= 1e-4 else "< 0.0001 %"


def ticks(largest, most=4):
    """Round numbers from 0 to at least `largest`, no more than `most` steps."""
    if largest <= 0:
        return [0, 1]
    step = 10 ** math.floor(math.log10(largest / most))
    step = next(step * k for k in (1, 2, 5, 10) if step * k * most >= largest * (1 - 1e-9))
    return [i * step for i in range(math.ceil(largest / step * (1 - 1e-9)) + 1)]


def _short(x):
    """A number on an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:.10g}"


def _text(x, y, text, anchor="middle", kind="axis"):
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(height, label, parts):
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">' + "".join(parts) + "</svg>"
    )


def columns(values, tips, names, label, unit="", mark=None):
    """Upright bars.

    Args:
        values: One number for each bar.
        tips: What to show when the mouse is over each bar.
        names: {bar: text below it}.
        label: What the bars are, below the axis.
        unit: Behind the numbers of the upright axis.
        mark: (value, text) of a line across, or None.

    Returns:
        An svg element.
    """
    steps = ticks(max([*values, mark[0] if mark else 0]))
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def y_of(value):
        return _TOP + high * (1 - value / steps[-1])

    parts = []
    for step in steps:
        y = y_of(step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _short(step) + unit, "end"))
    slot = wide / max(1, len(values))
    gap = min(slot * 0.2, 6)
    for i, (value, tip) in enumerate(zip(values, tips)):
        x, y = _LEFT + i * slot + gap / 2, y_of(value)
        shape = f'x="{x:.2f}" width="{slot - gap:.2f}" y="{y:.2f}" height="{_TOP + high - y:.2f}"'
        # The transparent bar of full height shows the tip of a low one.
        parts.append(f'<g class="bar"><rect class="fill" {shape}/><rect class="hit" x="{_LEFT + i * slot:.2f}" ')
        parts.append(f'width="{slot:.2f}" y="{_TOP}" height="{high}"><title>{html.escape(tip)}</title></rect></g>')
    parts += [_text(_LEFT + (i + 0.5) * slot, HEIGHT - _BOTTOM + 15, name) for i, name in names.items()]
    if mark:
        y = y_of(mark[0])
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(WIDTH - _RIGHT, _TOP - 4, mark[1], "end", "note"))
    parts.append(_text(_LEFT + wide / 2, HEIGHT - 3, label))
    return _svg(HEIGHT, label, parts)


def ribbon(parts, label):
    """One bar cut into shares, with a legend.

    Args:
        parts: [(name, count)], at most six.
        label: What is shared.

    Returns:
        A div element.
    """
    total = sum(count for _, count in parts)
    drawn, x = [], 0.0
    for i, (name, count) in enumerate(parts):
        width = WIDTH * count / total if total else 0
        tip = html.escape(f"{name}: {count:,} ({share(count, total)})")
        drawn.append(
            f'<rect class="part{i}" x="{x:.2f}" y="0" width="{width:.2f}" height="26"><title>{tip}</title></rect>'
        )
        x += width
    legend = "".join(
        f'<li><i class="part{i}"></i>{html.escape(name)} <b>{share(count, total)}</b> <span>{count:,}</span></li>'
        for i, (name, count) in enumerate(parts)
    )
    return f'<div class="ribbon">{_svg(26, label, drawn)}<ul>{legend}</ul></div>'


def rows(names, values, notes, label):
    """Level bars, one below the other.

    Args:
        names: Of the bars.
        values: One number for each.
        notes: What stands behind each.
        label: What the bars are.

    Returns:
        An svg element.
    """
    wide, parts = WIDTH - _NAME_WIDTH - _VALUE_WIDTH, []
    for i, (name, value, note) in enumerate(zip(names, values, notes)):
        y, width = i * _ROW_HEIGHT, wide * value / max(values)
        shown = name if len(name) <= 16 else name[:15] + "…"
        parts.append(f"<g><title>{html.escape(f'{name}: {note}')}</title>")
        parts.append(_text(_NAME_WIDTH - 8, y + 13.5, shown, "end", "name"))
        parts.append(
            f'<rect class="fill" x="{_NAME_WIDTH}" y="{y + 3}" width="{width:.2f}" height="{_ROW_HEIGHT - 6}"/>'
        )
        parts.append(_text(_NAME_WIDTH + width + 6, y + 13.5, note, "start") + "</g>")
    return _svg(max(1, len(names)) * _ROW_HEIGHT, label, parts)
