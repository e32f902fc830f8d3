"""Small SVG plots that need no library: bars and lines on a logarithmic scale, legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

INK, FAINT, MARK, OTHER = "#57606a", "#8c959f55", "#0969da", "#8c959f"
COLOURS = ("#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e")
FONT = "font-family='system-ui, sans-serif' font-size='12'"


def figure(value: float) -> str:
    """A number as a reader wants it: three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _ticks(low: float, high: float) -> tuple[int, int]:
    return math.floor(math.log10(low)), max(math.ceil(math.log10(high)), math.floor(math.log10(low)) + 1)


def bars(title: str, unit: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, marked: str) -> str:
    """Groups of horizontal bars on a logarithmic scale.

    Args:
        rows: Name of a group, and its bars as (what, value); what is not above 0 is left out.
        marked: Groups whose name begins so stand out.
    """
    values = [value for _, group in rows for _, value in group if value > 0]
    first, last = _ticks(min(values) / 1.5, max(values))
    left, width, bar, gap, top = 230, 430, 14, 10, 54
    height = top + sum(len(group) * bar + gap for _, group in rows) + 26

    def x(value: float) -> float:
        return left + (math.log10(value) - first) / (last - first) * width

    parts = [_head(left + width + 80, height, title, f"{unit}, logarithmic scale; less is better")]
    for power in range(first, last + 1):
        at = x(10**power)
        parts.append(f"<line x1='{at:.1f}' y1='{top - 4}' x2='{at:.1f}' y2='{height - 24}' stroke='{FAINT}'/>")
        parts.append(f"<text x='{at:.1f}' y='{height - 8}' text-anchor='middle'>{figure(10**power)}</text>")
    y = float(top)
    for name, group in rows:
        middle = y + len(group) * bar / 2 + 4
        colour, weight = (MARK, " font-weight='600'") if name.startswith(marked) else (OTHER, "")
        parts.append(f"<text x='{left - 8}' y='{middle:.1f}' text-anchor='end'{weight}>{escape(name)}</text>")
        for index, (what, value) in enumerate(group):
            if value > 0:
                opacity = 1 - index * 0.4
                parts.append(
                    f"<rect x='{left}' y='{y + 1:.1f}' width='{x(value) - left:.1f}' height='{bar - 2}' "
                    f"fill='{colour}' fill-opacity='{opacity:.1f}'/>"
                )
                label = f"{figure(value)} {what}"
                parts.append(f"<text x='{x(value) + 5:.1f}' y='{y + bar - 3:.1f}'>{escape(label)}</text>")
            y += bar
        y += gap
    return _document(parts)


def lines(title: str, across: str, up: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over a logarithmic axis; both axes are logarithmic."""
    points = [point for line in series.values() for point in line]
    first_x, last_x = _ticks(min(x for x, _ in points), max(x for x, _ in points))
    first_y, last_y = _ticks(min(y for _, y in points), max(y for _, y in points))
    left, top, width, height = 70, 54, 440, 220

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (math.log10(x) - first_x) / (last_x - first_x) * width,
            top + height - (math.log10(y) - first_y) / (last_y - first_y) * height,
        )

    parts = [_head(left + width + 200, top + height + 44, title, f"{up} over {across}, logarithmic scales")]
    for power in range(first_x, last_x + 1):
        x, y = at(10**power, 10**first_y)
        parts.append(f"<line x1='{x:.1f}' y1='{top}' x2='{x:.1f}' y2='{y:.1f}' stroke='{FAINT}'/>")
        parts.append(f"<text x='{x:.1f}' y='{y + 16:.1f}' text-anchor='middle'>{figure(10**power)}</text>")
    for power in range(first_y, last_y + 1):
        x, y = at(10**first_x, 10**power)
        parts.append(f"<line x1='{left}' y1='{y:.1f}' x2='{left + width}' y2='{y:.1f}' stroke='{FAINT}'/>")
        parts.append(f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{figure(10**power)}</text>")
    parts.append(f"<text x='{left + width / 2}' y='{top + height + 36}' text-anchor='middle'>{escape(across)}</text>")
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        drawn = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in drawn]
        key = top + 12 + index * 18
        parts.append(f"<rect x='{left + width + 12}' y='{key - 9}' width='10' height='10' fill='{colour}'/>")
        parts.append(f"<text x='{left + width + 27}' y='{key}'>{escape(name)}</text>")
    return _document(parts)


def _head(width: float, height: float, title: str, below: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"role='img' aria-label='{escape(title)}'>\n<g {FONT} fill='{INK}'>\n"
        f"<text x='8' y='18' font-size='15' font-weight='600'>{escape(title)}</text>\n"
        f"<text x='8' y='36'>{escape(below)}</text>"
    )


def _document(parts: Sequence[str]) -> str:
    return "\n".join([*parts, "</g>", "</svg>", ""])
