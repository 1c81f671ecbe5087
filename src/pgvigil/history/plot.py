"""A picture of lines over time, as SVG. No library: a few hundred points, two axes, a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape

from pgvigil.text import one_line

_WIDTH, _HEIGHT = 960, 420
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 40, 220, 50
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
SERIES = len(_COLOURS)


def svg(title: str, unit: str, series: Mapping[str, Sequence[tuple[datetime, float]]]) -> str:
    """Draw the lines; each point has its value as a title."""
    points = [point for line in series.values() for point in line]
    inner = [f'<text x="{_LEFT}" y="24" font-size="16">{_text(title)}</text>']
    if not points:
        inner.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT // 2}" text-anchor="middle">nothing in this time</text>')
        return _document(inner)
    first, last = min(time for time, _ in points), max(time for time, _ in points)
    seconds = max((last - first).total_seconds(), 1.0)
    top = _nice(max(value for _, value in points))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(time: datetime) -> float:
        return round(_LEFT + width * (time - first).total_seconds() / seconds, 1)

    def y(value: float) -> float:
        return round(_TOP + height * (1 - value / top), 1)

    for step in range(5):
        value = top * step / 4
        inner.append(f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(value)}" y2="{y(value)}" stroke="#ddd"/>')
        inner.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:,.4g}</text>')
        time = first + timedelta(seconds=seconds * step / 4)
        shown = f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"
        inner.append(f'<text x="{x(time)}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{shown}</text>')
    inner.append(f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{_text(unit)}; time in UTC</text>')
    for number, (name, line) in enumerate(list(series.items())[:SERIES]):
        colour = _COLOURS[number]
        path = " ".join(f"{x(time)},{y(value)}" for time, value in line)
        inner.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(line) <= 400:
            inner += [
                f'<circle cx="{x(time)}" cy="{y(value)}" r="2.5" fill="{colour}"><title>{_text(name)} {time:%Y-%m-%d %H:%M}: {value:,.6g}</title></circle>'
                for time, value in line
            ]
        at = _TOP + 18 * number
        inner.append(f'<rect x="{_LEFT + width + 16}" y="{at}" width="10" height="10" fill="{colour}"/>')
        inner.append(f'<text x="{_LEFT + width + 32}" y="{at + 9}">{_text(name[:28])}</text>')
    return _document(inner)


def _document(inner: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *inner, "</svg>\n"])


def _text(text: str) -> str:
    return escape(one_line(text))


def _nice(value: float) -> float:
    """The next round number for the top of the axis."""
    if value <= 0:
        return 1.0
    size = 10.0 ** (len(f"{value:.0f}") - 1) if value >= 1 else 1.0
    return next(size * step for step in (1, 2, 2.5, 5, 10) if size * step >= value)
