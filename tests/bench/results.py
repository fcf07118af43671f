"""What was measured: on the screen while it goes on, then as a table in Markdown, a plot, and as JSON, of
which both can be made again.
"""

import json
import os
import platform
import time

import plot

NOTES = ("Median of {rounds} rounds, in brackets the least and the greatest. *CPU* is processor time of all "
         "processes of a server for each message, *conn.* connections that were opened for each. *disk* and *wire* are "
         "what the file operations alone, and the same client with smtp-sink(1), come to, *both* what one after the other does. "
         "*best peer* is ours by the best of the others. `tests/bench/README.md` says what is fair about it.")


class Results:
    def __init__(self, servers, args):
        self.place = args.out
        self.names = [server.name for server in servers]
        self.rows, self.stories, self.left = [], [], []
        self.facts = {"when": time.strftime("%Y-%m-%d %H:%M %Z"), "system": f"{platform.system()} {platform.release()}",
                      "processors": os.cpu_count(), "rounds": args.rounds, "seconds": args.seconds,
                      "servers": {server.name: server.version() for server in servers}}

    def row(self, row, figures, floors, failures):
        load = round(os.getloadavg()[0], 1)
        found = {"name": row.name, "title": row.title, "unit": row.unit, "less_is_better": row.less_is_better, "load": load,
                 "floors": floors, "failures": failures,
                 "figures": {name: vars(figure) for name, figure in figures.items()}}
        self.rows.append(found)
        print("\n" + "\n".join(shown(found)), flush=True)

    def story(self, story, lines):
        self.stories.append({"name": story.name, "title": story.title, "lines": lines})
        print(f"\n{story.title} [{story.name}] (load {os.getloadavg()[0]:.1f})\n  " + "\n  ".join(lines), flush=True)

    def write(self):
        """After every row: a run may be ended by hand."""
        os.makedirs(self.place, exist_ok=True)
        found = {"facts": self.facts, "names": self.names, "rows": self.rows, "stories": self.stories, "left": self.left}
        for name, text in (("results.json", json.dumps(found, indent=1) + "\n"), ("table.md", markdown(found)),
                           ("plot.svg", plot.svg(found))):
            with open(os.path.join(self.place, name), "w") as f:
                f.write(text)


def ratio(row, name):
    """How much better ours is."""
    ours, its = row["figures"].get("smtpd-rs"), row["figures"].get(name)
    if not ours or not its or name == "smtpd-rs":
        return None
    pair = its["median"], ours["median"]
    better, than = pair if row["less_is_better"] else pair[::-1]
    return better / than if than else None


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def costs(figure):
    cost = []
    if figure["cpu_ms"] is not None:
        cost.append(f"{figure['cpu_ms']:.2f} ms CPU")
    if figure["connections"] is not None:
        cost.append(f"{figure['connections']:.3f} conn.")
    return cost


def shown(row):
    """A row for the screen."""
    yield f"{row['title']} [{row['name']}] ({row['unit']}; load {row['load']})"
    for name, figure in row["figures"].items():
        spread = f"({number(figure['least'])}–{number(figure['most'])})"
        better = ratio(row, name)
        yield (f"  {name:14} {number(figure['median']):>8} {spread:16} {', '.join(costs(figure)):28}"
               + (f"ours is {better:.2f} x as good" if better else "")).rstrip()
        if figure["note"]:
            yield f"  {'':14} {figure['note']}"
    ours = row["figures"].get("smtpd-rs")
    for name, floor in row["floors"].items():
        share = f"ours {ours['median'] / floor * 100:.0f} %" if ours else ""
        yield f"  {'floor: ' + name:14} {number(floor):>8} {'':16} {'':28}{share}".rstrip()
    for name, why in row["failures"].items():
        yield f"  {name:14} failed: {why}"


def markdown(found):
    facts, names = found["facts"], found["names"]
    floors = list(dict.fromkeys(name for row in found["rows"] for name in row["floors"]))
    lines = ["# smtpd-rs, measured side by side", "",
             f"{facts['when']}; {facts['system']}, {facts['processors']} processors; "
             + ", ".join(f"{name} {version}" for name, version in facts["servers"].items()) + ".", "",
             NOTES.format(**facts), ""]
    if found["rows"]:
        head = ["what", "unit", *names, *floors, "best peer"]
        lines += ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
        for row in found["rows"]:
            lines.append("| " + " | ".join([row["title"], row["unit"], *(cell(row, name) for name in names),
                                            *(number(row["floors"][name]) if name in row["floors"] else "" for name in floors),
                                            best(row)]) + " |")
    for story in found["stories"]:
        lines += ["", f"**{story['title']}**", "", *(f"    {line}" for line in story["lines"])]
    if found["left"]:
        lines += ["", f"Not measured, for the time was over: {', '.join(found['left'])}."]
    return "\n".join(lines) + "\n"


def cell(row, name):
    if name in row["failures"]:
        return "failed"
    figure = row["figures"].get(name)
    if not figure:
        return ""
    spread = f"({number(figure['least'])}–{number(figure['most'])})"
    return "<br>".join([f"**{number(figure['median'])}** {spread}", *costs(figure)])


def best(row):
    others = [ratio(row, name) for name in row["figures"] if name not in ("smtpd-rs", "before")]
    others = [better for better in others if better]
    return f"{min(others):.2f}" if others else ""
