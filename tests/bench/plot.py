#!/usr/bin/env python3
"""The plot of a result: for each row a bar for every server, the best one over the whole width.

By itself: plot.py target/bench/results.json >plot.svg
"""

import json
import sys
import textwrap
from xml.sax.saxutils import escape

COLOURS = ["#1b6ca8", "#8fb8d8", "#c8553d", "#e8a598", "#6a994e", "#9a8c98", "#777777"]
WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 960, 300, 190, 15, 22, 70
# Letters of a title that have room to the left of its bars.
TITLE = 42


def text(x, y, what, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(what)}</text>'


def bar(y, share, colour):
    return f'<rect x="{LEFT}" y="{y:.1f}" width="{share * (WIDTH - LEFT - RIGHT):.1f}" height="{BAR - 3}" fill="{colour}"/>'


def whisker(y, least, most):
    across = WIDTH - LEFT - RIGHT
    return (f'<line x1="{LEFT + least * across:.1f}" x2="{LEFT + most * across:.1f}" y1="{y + BAR / 2 - 1.5:.1f}" '
            f'y2="{y + BAR / 2 - 1.5:.1f}" stroke="#222" stroke-width="1.5"/>')


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def panel(row, names, colours, y):
    """The bars of one row; where the next one starts."""
    figures = [(name, row["figures"][name]) for name in names if name in row["figures"]]
    longest = max([figure["most"] for _, figure in figures] + [1e-9])
    unit = row["unit"] + (", less is better" if row["less_is_better"] else "")
    title = textwrap.wrap(row["title"], TITLE)
    words = [(line, ' text-anchor="end" font-weight="bold"') for line in title] + [(unit, ' text-anchor="end" fill="#555"')]
    out = [text(LEFT - 10, y + (n + 1) * BAR - 4, line, more) for n, (line, more) in enumerate(words)]
    end = y + max(len(words), len(figures)) * BAR + GAP
    for name, figure in figures:
        out += [bar(y, figure["median"] / longest, colours[name]),
                whisker(y, figure["least"] / longest, figure["most"] / longest)]
        cost = f", {figure['cpu_ms']:.2f} ms CPU" if figure["cpu_ms"] is not None else ""
        out.append(text(LEFT + figure["most"] / longest * (WIDTH - LEFT - RIGHT) + 6, y + BAR - 4,
                        number(figure["median"]) + cost))
        y += BAR
    return out, end


def svg(found):
    names = found["names"]
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    facts = found["facts"]
    out = [text(20, 24, "smtpd-rs, measured side by side", ' font-size="16" font-weight="bold"'),
           text(20, 42, f"{facts['when']}, {facts['system']}, {facts['processors']} processors; medians of {facts['rounds']} "
                        "rounds; lines: least to greatest")]
    x = 20
    for name in names:
        out += [f'<rect x="{x}" y="50" width="10" height="10" fill="{colours[name]}"/>', text(x + 14, 59, name)]
        x += 30 + 7 * len(name)
    y = HEAD + GAP / 2
    for row in found["rows"]:
        if row["figures"]:
            lines, y = panel(row, names, colours, y)
            out += lines
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0f}" font-family="sans-serif" '
            f'font-size="11"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(out) + "\n</svg>\n")


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        print(svg(json.load(source)), end="")
