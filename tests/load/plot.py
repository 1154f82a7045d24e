"""Tables, and plain SVG without a library: bars side by side, and lines over a logarithmic axis."""

import html
import math

COLOURS = ["#2563eb", "#0891b2", "#7c3aed", "#64748b", "#ea580c", "#65a30d", "#db2777", "#ca8a04"]
STYLE = "font-family:system-ui,sans-serif;font-size:12px;fill:#334155"


def number(value):
    for limit, divisor, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.3g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"


def bars(title, unit, rows):
    """`rows`: name, value, and a note beside the bar."""
    width, line, left = 720, 26, 190
    height, top = 50 + line * len(rows), 40
    most = max(value for _, value, _ in rows) or 1
    parts = [head(width, height, title, unit)]
    for index, (name, value, note) in enumerate(rows):
        y, length = top + index * line, (width - left - 150) * value / most
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" style="{STYLE}">{html.escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{line - 8}" fill="{COLOURS[index % len(COLOURS)]}"/>')
        label = number(value) + (f"  {note}" if note else "")
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 15}" style="{STYLE}">{html.escape(label)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def lines(title, x_label, unit, series):
    """`series`: name to a list of x and y. The x axis is logarithmic if it spans more than a factor of 20."""
    width, height, left, right, top, bottom = 720, 360, 70, 150, 45, 45
    points = [point for values in series.values() for point in values]
    xs, most = sorted({x for x, _ in points}), max(y for _, y in points) or 1
    positive = [x for x in xs if x > 0]
    logarithmic = len(positive) > 1 and positive[-1] / positive[0] > 20
    scale = (lambda x: math.log10(max(x, positive[0] / 2))) if logarithmic else float
    low, high = scale(xs[0]), scale(xs[-1])
    across = lambda x: left + (width - left - right) * ((scale(x) - low) / (high - low) if high > low else 0.5)
    up = lambda y: height - bottom - (height - top - bottom) * y / (most * 1.08)
    parts = [head(width, height, title, unit)]
    for step in range(5):
        y = most * step / 4
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{left - 6}" y="{up(y) + 4:.1f}" text-anchor="end" style="{STYLE}">{number(y)}</text>')
    for x in xs:
        parts.append(f'<text x="{across(x):.1f}" y="{height - bottom + 18}" text-anchor="middle" style="{STYLE}">{number(x)}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle" style="{STYLE}">{html.escape(x_label)}</text>')
    for index, (name, values) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in values)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in values]
        parts.append(f'<text x="{width - right + 10}" y="{top + 16 * index + 10}" style="{STYLE};fill:{colour}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def head(width, height, title, unit):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        f'<text x="12" y="22" style="{STYLE};font-weight:600;font-size:14px">{html.escape(title)}</text>'
        f'<text x="{width - 12}" y="22" text-anchor="end" style="{STYLE}">{html.escape(unit)}</text>'
    )


def table(rows, header):
    """In Markdown."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, align, *rows])
