"""Lines over time as an SVG, by hand: a plot for docs that needs no plotting library. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 170, 40, 45
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")

Points = Sequence[tuple[float, float]]


def line_plot(title: str, x_label: str, y_label: str, lines: Mapping[str, Points]) -> str:
    """An SVG with one line for each name; both axes begin at 0."""
    x_top = _round_up(max((x for points in lines.values() for x, _ in points), default=1.0))
    y_top = _round_up(max((y for points in lines.values() for _, y in points), default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, size=15),
        *_axes(x_top, y_top, x_label, y_label),
    ]
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(f"{_x(x, x_top):.1f},{_y(y, y_top):.1f}" for x, y in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}"/>')
        y = TOP + 14 + 20 * number
        right = WIDTH - RIGHT + 12
        parts.append(f'<path d="M{right} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(right + 24, y, name))
    return "\n".join([*parts, "</svg>", ""])


def _axes(x_top: float, y_top: float, x_label: str, y_label: str) -> list[str]:
    parts = []
    for step in range(6):
        x, y = x_top * step / 5, y_top * step / 5
        across, down = _x(x, x_top), _y(y, y_top)
        parts.append(f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, down + 4, f"{y:g}", anchor="end"))
        parts.append(_text(across, HEIGHT - BOTTOM + 18, f"{x:g}", anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, x_label, anchor="middle"))
    parts.append(_text(LEFT - 48, TOP - 8, y_label))
    return parts


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _x(value: float, top: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / top


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _round_up(value: float) -> float:
    """The next number that is easily divided by five."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if unit * step >= value)
