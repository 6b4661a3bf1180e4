"""Tables for docs/performance.md, and the picture."""

import os
import re

NAMES = {
    "devroute": "**devroute**",
    "devroute-cargo": "devroute, not guided",
    "devroute-2": "**devroute**, two workers",
    "envoy-2": "Envoy, two workers",
    "hyper": "the smallest hyper proxy",
    "haproxy": "HAProxy",
    "haproxy-tcp": "HAProxy, TCP only",
    "nginx": "nginx",
    "envoy": "Envoy, Lua filter",
    "reference": "the reference",
}
PLAIN = {name: text.replace("*", "") for name, text in NAMES.items()}


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(summary):
    """One question as a table in Markdown."""
    to = summary["to"]
    compared = any(cell["of"] for row in summary["rows"] for cell in row["cells"])
    heads = []
    for cell in summary["rows"][0]["cells"] if summary["rows"] else []:
        heads.append(cell["figure"])
        if compared:
            heads.append(f"of {PLAIN[to].split(',')[0]}'s")
    # Where it is CPU time, and enough of it to tell.
    rows = summary["rows"]
    is_cpu = bool(rows) and rows[0]["cells"][0]["figure"].startswith("CPU")
    is_split = is_cpu and all(row["system"] for row in rows)
    if is_split:
        heads.append("the system's part")
    lines = [f"### {summary['title']}", "", "| | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(heads) + 1) + "|")
    for row in summary["rows"]:
        cells = [NAMES[row["peer"]]]
        for cell in row["cells"]:
            cells.append(number(cell["median"]))
            if compared:
                cells.append(proportion(cell))
        if is_split:
            cells.append(f"{row['system']:.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def proportion(cell):
    if cell["of"] is None:
        return ""
    low, high = cell["quartiles"] or (cell["of"], cell["of"])
    return f"{cell['of']:.2f} ({low:.2f} to {high:.2f})"


def put(root, mark, tables):
    """Puts tables into docs/performance.md, between the marks of that name."""
    path = os.path.join(root, "docs/performance.md")
    with open(path) as file:
        text = file.read()
    body = "\n".join(tables)
    pattern = re.compile(f"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    text = pattern.sub(lambda match: f"{match[1]}{body}{match[2]}", text)
    with open(path, "w") as file:
        file.write(text)


def write(root, summaries):
    """Puts the tables where they are read, and draws the picture."""
    put(root, "compare", [table(summary) for summary in summaries])
    by_key = {summary["key"]: summary for summary in summaries}
    if {"plain", "rerouted"} <= by_key.keys():
        with open(os.path.join(root, "docs/images/performance.svg"), "w") as file:
            file.write(picture(by_key["plain"], by_key["rerouted"]))


STYLE = """
  .text { font: 14px system-ui, sans-serif; fill: #24292f }
  .quiet { fill: #57606a }
  .bar { fill: #8c959f }
  .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    .text { fill: #e6edf3 }
    .quiet { fill: #9198a1 }
    .bar { fill: #6e7681 }
    .ours { fill: #4493f8 }
  }
"""
WIDTH, LEFT, RIGHT, ROW, BAR = 720, 190, 130, 26, 16


def picture(*summaries):
    """Bars of what a request takes, on no background, in colours for light and dark pages."""
    widest = max(row["cells"][0]["median"] for summary in summaries for row in summary["rows"])
    out, y = [], 8
    for summary in summaries:
        y += 18
        out.append(f'<text class="text quiet" x="0" y="{y}">{escape(summary["title"])}</text>')
        y += 10
        for row in sorted(summary["rows"], key=lambda row: row["cells"][0]["median"]):
            cell = row["cells"][0]
            width = max(2, cell["median"] / widest * (WIDTH - LEFT - RIGHT))
            ours = "ours" if row["peer"] == "devroute" else "bar"
            middle = y + ROW / 2
            said = f"{cell['median']:.1f} µs"
            name = escape(PLAIN[row["peer"]])
            out += [
                f'<text class="text" x="{LEFT - 10}" y="{middle + 5}" text-anchor="end">{name}</text>',
                f'<rect class="{ours}" x="{LEFT}" y="{middle - BAR / 2}" width="{width:.1f}"'
                f' height="{BAR}" rx="3"/>',
                f'<text class="text" x="{LEFT + width + 8:.1f}" y="{middle + 5}">{said}</text>',
            ]
            y += ROW
        y += 8
    title = "CPU time that each proxy takes for a request, in microseconds"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}"'
        f' height="{y}" role="img" aria-label="{title}">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(out) + "\n</svg>\n"
    )


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
