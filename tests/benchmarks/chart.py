"""Bars as SVG, by hand: readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Panel = tuple[str, Sequence[tuple[str, float, str]]]  # title; of each bar its label, value and how that is written

WIDTH = 720
LABELS = 170
VALUES = 70
BAR = 16
LINE = 24
TITLE = 36

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.note { font-size: 12px; fill: #59636e }
.ours { font-weight: 600 }
rect { fill: #afb8c1 }
rect.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .note { fill: #9198a1 }
  rect { fill: #656c76 }
  rect.ours { fill: #4493f8 }
}
"""


def chart(panels: Sequence[Panel], note: str) -> str:
    """Panels below each other; in each the first bar is ours."""
    lines: list[str] = []
    y = 0
    for title, bars in panels:
        y += TITLE
        lines.append(f'<text class="title" x="0" y="{y - 12}">{escape(title)}</text>')
        most = max(value for _, value, _ in bars)
        for number, (label, value, written) in enumerate(bars):
            length = max(1.0, value / most * (WIDTH - LABELS - VALUES))
            kind = ' class="ours"' if number == 0 else ""
            middle = y + BAR - 3
            lines += [
                f'<text{kind} x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
                f'<rect{kind} x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
                f'<text{kind} x="{LABELS + length + 8:.1f}" y="{middle}">{escape(written)}</text>',
            ]
            y += LINE
    y += 20
    lines.append(f'<text class="note" x="0" y="{y}">{escape(note)}</text>')
    described = "; ".join(f"{title}: {', '.join(f'{a} {c}' for a, _, c in bars)}" for title, bars in panels)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(described)}">', f"<style>{STYLE}</style>", *lines, "</svg>", ""])
