"""Bars as SVG, by the standard library alone."""

from html import escape

WIDTH, LABEL, ROW, TOP = 820, 310, 30, 44
SUBJECT, OTHER, INK = "#1f6feb", "#9aa7b5", "#1b1f24"


def short(value):
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def bars(title, unit, rows):
    """rows: (label, value, lowest, highest, whether it is Moontide)."""
    height = TOP + ROW * len(rows) + 12
    room = WIDTH - LABEL - 90
    most = max(row[3] for row in rows) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-weight="600" fill="{INK}">{escape(title)}, {escape(unit)}</text>',
    ]
    for number, (label, value, lowest, highest, is_subject) in enumerate(rows):
        y = TOP + ROW * number
        long, low, high = (room * one / most for one in (value, lowest, highest))
        parts += [
            f'<text x="{LABEL - 10}" y="{y + 16}" text-anchor="end" fill="{INK}">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{y + 2}" width="{max(long, 1):.1f}" height="20" rx="2" '
            f'fill="{SUBJECT if is_subject else OTHER}"/>',
            f'<path d="M{LABEL + low:.1f} {y + 12}H{LABEL + high:.1f}M{LABEL + low:.1f} {y + 8}v8'
            f'M{LABEL + high:.1f} {y + 8}v8" stroke="{INK}" fill="none"/>',
            f'<text x="{LABEL + max(long, high) + 8:.1f}" y="{y + 16}" fill="{INK}">{short(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
