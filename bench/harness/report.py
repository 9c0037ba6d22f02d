"""The page: tables and plots of what was measured, what was not and why, and what the figures belong to."""

import json
import textwrap
from dataclasses import asdict, dataclass
from statistics import median

from . import adding, plot
from .plot import short
from .settings import PAGE, ROOT
from .workloads import names


# The goals as they were measured in a quiet hour and in a busy one (HOUR=busy).
GOALS = ROOT / "bench/goals.json"
# The table of goals stands between these lines, in the page and in the README.
MARKS = ("<!-- goals -->", "<!-- end of goals -->")
README = ROOT / "README.md"
# The workloads whose goals the README shows.
SHORT = ("read", "json", "keys-10000", "emit", "exactly-once", "latency-1k", "http", "upserts", "idle")


@dataclass(frozen=True)
class Goal:
    workload: str
    against: str
    quantity: str
    wanted: str
    measured: str
    cpu: str
    is_reached: bool


class Report:
    def __init__(self, page, facts, settings, command):
        self.page = page
        self.plots = page.with_suffix("")
        self.facts = facts
        self.settings = settings
        self.command = command
        self.sections = []
        self.goals = []
        self.memory = []
        self.missing = []
        # The names of the workloads of this run.
        self.measured = []

    def add(self, workload, programs):
        with_figures = [program for program in programs if program.figures]
        for program in programs:
            if program.missing:
                self.missing.append((workload.name, program.title, program.missing))
        lines = [f"## {workload.title}", ""]
        if workload.missing:
            self.missing.append((workload.name, "Moontide", workload.missing))
            lines += [f"Not measured: {workload.missing}.", ""]
        elif with_figures:
            lines += getattr(self, f"_{workload.kind}")(workload, with_figures)
        for program in with_figures:
            self._add_memory(workload, program)
        if workload.note:
            lines += [wrapped(workload.note), ""]
        lines += [f"No figure for {program.title}: {program.missing}." for program in programs if program.missing]
        self.sections.append("\n".join(lines).rstrip())
        self.measured.append(workload.name)

    def _rate(self, workload, programs):
        subject = programs[0]
        lines = ["| program | messages | messages/s, median | lowest – highest | Moontide to it | CPU µs a message | memory MiB |",
                 "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for program in programs:
            rates = program.rates()
            ratio = "" if program is subject else f"{subject.rate() / program.rate():.2f}"
            lines.append(
                f"| {program.title} | {program.figures[0].messages:,} | {program.rate():,.0f} | {short(min(rates))} – "
                f"{short(max(rates))} | {ratio} | {program.cpu_us():.2f} | {program.memory_mib():.0f} |")
            self._goal(workload, program, subject, "rate", lambda wanted: (
                subject.rate() / program.rate(), wanted, subject.rate() >= wanted * program.rate()))
            self._goal(workload, program, subject, "CPU time", lambda wanted: (
                subject.cpu_us() / program.cpu_us(), wanted, subject.cpu_us() <= wanted * program.cpu_us()))
        return [*lines, "", *self._plot(workload, programs, "messages/s", lambda program: program.rates())]

    def _latency(self, workload, programs):
        subject = programs[0]
        lines = ["| program | p50 µs | p99 µs | p99.9 µs | Moontide's p50 and p99 to it | CPU µs a message |",
                 "| --- | ---: | ---: | ---: | ---: | ---: |"]
        mine = subject.latency()
        for program in programs:
            figures = program.latency()
            ratios = "" if program is subject else f"{mine[0] / figures[0]:.2f} · {mine[1] / figures[1]:.2f}"
            lines.append("| {} | {:,.0f} | {:,.0f} | {:,.0f} | {} | {:.1f} |".format(
                program.title, *figures, ratios, program.cpu_us()))
            for at, name in enumerate(("p50", "p99")):
                self._goal(workload, program, subject, name, lambda wanted: (
                    mine[at] / figures[at], wanted[at], mine[at] <= wanted[at] * figures[at]))
            if program.setup and program.setup.p99_max:
                most = program.setup.p99_max
                self.goals.append(Goal(workload.name, program.title, "p99", f"≤ {most:g} ms", f"{figures[1] / 1000:.0f} ms", "",
                                       figures[1] <= most * 1000))
        p99 = lambda program: [figure.latency[1] for figure in program.figures]
        return [*lines, "", *self._plot(workload, programs, "p99 in µs", p99)]

    def _idle(self, _, programs):
        lines = ["| program | CPU, % of a core | memory MiB |", "| --- | ---: | ---: |"]
        for program in programs:
            share, memory = program.figures[0]
            lines.append(f"| {program.title} | {share:.2f} | {memory:.1f} |")
        return [*lines, ""]

    def _backlog(self, _, programs):
        return [f"{programs[0].figures[0]:.1f} MiB.", ""]

    def _start(self, _, programs):
        check, ready = (median(column) for column in zip(*programs[0].figures))
        return [f"`moontide check`: {check:.0f} ms. Start until ready: {ready:.0f} ms.", ""]

    def _goal(self, workload, program, subject, what, judge):
        goals = workload.cpu_goals if what == "CPU time" else workload.goals
        wanted = goals.get(program.key)
        if wanted is not None:
            measured, wanted, is_reached = judge(wanted)
            sign = "≥" if what == "rate" else "≤"
            cpu = f"{subject.cpu_us():.2f} · {program.cpu_us():.2f}"
            self.goals.append(
                Goal(workload.name, program.title, what, f"{sign} {wanted:g} ×", f"{measured:.2f} ×", cpu, is_reached))

    def _add_memory(self, workload, program):
        setup = program.setup
        if setup is None or not setup.memory:
            return
        of = {"idle": lambda figure: figure[1], "backlog": lambda figure: figure, "rate": lambda figure: figure.memory_mib}
        values = [of[workload.kind](figure) for figure in program.figures]
        self.memory.append((setup.memory, max(values), min(values), max(values), True))
        if setup.memory_max:
            most = max(values) * 1.048576
            self.goals.append(Goal(workload.name, program.title, "memory", f"≤ {setup.memory_max:g} MB", f"{most:.1f} MB",
                                   "", most <= setup.memory_max))

    def _memory(self):
        title = "Memory of Moontide"
        lines = [f"## {title}", "", "The maximum of all rounds; of an idle daemon and of a slow handler, the memory after some seconds.", "",
                 "| | MiB |", "| --- | ---: |"]
        lines += [f"| {label} | {most:.1f} |" for label, most, *_ in self.memory]
        self.plots.mkdir(parents=True, exist_ok=True)
        (self.plots / "memory.svg").write_text(plot.bars(title, "MiB", self.memory))
        return "\n".join([*lines, "", f"![{title}]({self.plots.name}/memory.svg)"])

    def _plot(self, workload, programs, unit, values):
        if len(programs) < 2:
            return []
        rows = []
        for program in programs:
            all_values = values(program)
            rows.append((program.title, median(all_values), min(all_values), max(all_values), program.setup is not None))
        self.plots.mkdir(parents=True, exist_ok=True)
        title = workload.title.replace("`", "")
        (self.plots / f"{workload.name}.svg").write_text(plot.bars(title, unit, rows))
        return [f"![{title}]({self.plots.name}/{workload.name}.svg)", ""]

    def _hours(self):
        """The goals of both hours: this run's, and those of the other hour as they were kept."""
        hours = json.loads(GOALS.read_text()) if GOALS.exists() else {}
        name = "busy" if self.settings.busy else "quiet"
        run = {"revision": self.facts["Moontide"], "load": self.facts["load when it began"], "rounds": self.settings.rounds}
        if self.settings.adds:
            return hours | {name: adding.add_goals(hours[name], self.goals, self.measured, names(), run)}
        return hours | {name: run | {"goals": [asdict(goal) for goal in self.goals]}}

    def keep_goals(self):
        """After a whole run, or one that adds to it: its goals in both tables. The figures of a busy hour stand nowhere else."""
        if self.settings.is_whole or self.settings.adds:
            hours = self._hours()
            GOALS.write_text(json.dumps(hours, indent=1, ensure_ascii=False) + "\n")
            PAGE.write_text(with_goals(PAGE.read_text(), goals_of(hours)))
            README.write_text(with_goals(README.read_text(), short_goals_of(hours)))

    def write(self, peers):
        """The whole page anew, so that a run that is broken off leaves what it had."""
        if self.settings.busy:
            return
        if self.settings.adds:
            self._add_to_page(peers)
            return
        parts = [
            "# Performance",
            wrapped(
                f"`{self.command}` writes this page, and "
                "[bench/](https://github.com/moontide/moontide/blob/main/bench/README.md) describes the method. "
                "Performance is a ratio: the programs of a table read the same topic in turn, each time as a new group, "
                f"{times(self.settings.rounds)}. Runs that do not count precede them on each topic: "
                f"{self.settings.warm_runs} on the first one, one on the others. The figures are medians, from the first "
                "message to the last in the program's own process. Slow programs read fewer of the messages. CPU and "
                "memory are those of the whole process and its children, its start included."),
        ]
        if self.settings.quick or self.settings.scale != 1:
            parts.append("**These are small runs, which show that everything works, and nothing about speed.**")
        parts += [table(("", ""), self.facts.items())]
        if self.goals:
            parts += ["## Goals", MARKS[0], *goals_of(self._hours()), MARKS[1]]
        parts += self.sections
        if self.memory:
            parts.append(self._memory())
        parts += ["## Missing", table(("workload", "program", "why"), self.missing) if self.missing else "Nothing."]
        parts += ["## How the programs are tuned", table(("program", "version", "settings"), [
            ("Moontide", self.facts["Moontide"], "its defaults, and the settings in the title of each workload"),
            *tuning_of(peers)])]
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self.page.write_text("\n\n".join(parts) + "\n")


    def _add_to_page(self, peers):
        told = wrapped(f"Measured later, in {self.settings.rounds} rounds: {self.facts['Moontide']}, load when the run began: "
                       f"{self.facts['load when it began']}.")
        text = adding.add_sections(self.page.read_text(), self.sections, told)
        self.page.write_text(adding.add_rows(text, table_rows(tuning_of(peers))))


def tuning_of(peers):
    return [(peer.title, peer.version, peer.tuning) for peer in peers]


def goals_of(hours):
    """The table of goals: what a quiet hour gave, and beside it a busy one."""
    quiet, busy = (hours.get(hour, {"goals": []}) for hour in ("quiet", "busy"))
    key = ("workload", "against", "quantity")
    there = {tuple(goal[name] for name in key): goal for goal in busy["goals"]}
    rows = []
    for goal in quiet["goals"]:
        other = there.get(tuple(goal[name] for name in key), {})
        rows.append((*(goal[name] for name in key), goal["wanted"], goal["measured"], other.get("measured", ""),
                     goal["cpu"], other.get("cpu", ""), "reached" if goal["is_reached"] else "**missed**"))
    head = (*key, "goal", "quiet hour", "busy hour", "CPU µs, quiet", "CPU µs, busy", "result, quiet")
    notes = ["CPU time is that of a message: Moontide's, and the other program's. It is the steadier figure: on a machine "
             "that others share, a rate depends on the hour."]
    notes += [f"The {name} hour: {hour['revision']}, rounds: {hour['rounds']}, load when the run began: {hour['load']}."
              for name, hour in (("quiet", quiet), ("busy", busy)) if hour["goals"]]
    notes += [f"Later in the {name} hour: {', '.join(run['workloads'])}; {run['revision']}, rounds: {run['rounds']}, load when "
              f"the run began: {run['load']}."
              for name, hour in (("quiet", quiet), ("busy", busy)) for run in hour.get("later", [])]
    return [table(head, rows), wrapped(" ".join(notes))]


def short_goals_of(hours):
    """The rates and latencies of the README's workloads in a quiet hour, and how many of all goals are missed."""
    goals = hours["quiet"]["goals"]
    shown = [goal for goal in goals if goal["workload"] in SHORT and goal["quantity"] != "CPU time"]
    rows = [(goal["workload"], goal["against"], goal["quantity"], goal["wanted"], goal["measured"],
             "reached" if goal["is_reached"] else "**missed**") for goal in shown]
    missed = sum(not goal["is_reached"] for goal in goals)
    note = f"Of {len(goals)} goals {len(goals) - missed} are reached. [Results](docs/performance.md#goals) has all of them, the processor time of " \
           "each message, and a busy hour beside this quiet one."
    return [table(("workload", "against", "quantity", "goal", "measured", "result"), rows), wrapped(note)]


def with_goals(text, goals):
    """The text with the table of goals between its marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return "\n\n".join([before + MARKS[0], *goals, MARKS[1] + after])


def wrapped(paragraph):
    return textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def times(number):
    return "once" if number == 1 else f"{number} times"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *table_rows(rows)])


def table_rows(rows):
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


