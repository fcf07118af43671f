"""Rows of the result: what is measured, and how often."""

import statistics
import subprocess
import time


class Reading:
    """One figure of one server, and what it cost for each message."""

    def __init__(self, value, cpu_ms=None, connections=None, note=""):
        self.value, self.cpu_ms, self.connections, self.note = value, cpu_ms, connections, note


class Figure:
    """Readings of several rounds: the median, and the least and the greatest."""

    def __init__(self, readings):
        values = [reading.value for reading in readings]
        self.median, self.least, self.most = statistics.median(values), min(values), max(values)
        self.cpu_ms = middle([reading.cpu_ms for reading in readings])
        self.connections = middle([reading.connections for reading in readings])
        self.note = readings[-1].note


def middle(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


# What may go wrong with one server and is no reason to leave the others out.
FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)


def why(error):
    return str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"


class Row:
    """`work` takes a server and gives a reading, or None where the server has no such thing. `floors` are what
    the same would come to if nothing else had to be done: a name, and a function that measures it."""

    def __init__(self, name, title, unit, work, floors=None, who=None, default=True, seconds=0, less_is_better=False):
        self.name, self.title, self.unit, self.work = name, title, unit, work
        self.floors, self.who, self.default = floors or {}, who or (lambda server: True), default
        # What one reading takes at most, apart from the start of a server; 0 is the usual.
        self.seconds, self.less_is_better = seconds, less_is_better

    def most_s(self, servers, args):
        each = (self.seconds or 2 * args.seconds) + 3
        return args.rounds * each * sum(map(self.who, servers)) + args.seconds * len(self.floors)

    def measure(self, servers, args, results):
        readings, failures = {}, {}
        for _ in range(args.rounds):
            for server in filter(self.who, servers):
                if server.name in failures:
                    continue
                try:
                    reading = self.work(server)
                except FAILURES as error:
                    failures[server.name] = why(error)
                    continue
                if reading:
                    readings.setdefault(server.name, []).append(reading)
        figures = {name: Figure(found) for name, found in readings.items() if name not in failures}
        floors = {name: floor() for name, floor in self.floors.items()}
        if len(floors) > 1 and all(floors.values()):
            # Messages a second of who does the one and then the other.
            floors["both"] = 1 / sum(1 / floor for floor in floors.values())
        results.row(self, figures, floors, failures)


class Story:
    """What is told of ours alone, in lines."""

    def __init__(self, name, title, tell, default=True, seconds=60):
        self.name, self.title, self.tell, self.default, self.seconds = name, title, tell, default, seconds

    def most_s(self, servers, args):
        return self.seconds

    def measure(self, servers, args, results):
        try:
            lines = self.tell(servers[0])
        except FAILURES as error:
            lines = [f"failed: {why(error)}"]
        results.story(self, lines)


def measure(rows, servers, args, results):
    """All rows in their order, as long as there is time."""
    end = time.monotonic() + args.minutes * 60
    for row in rows:
        if time.monotonic() > end:
            results.left.append(row.name)
        else:
            row.measure(servers, args, results)
        results.write()
