"""Adds workloads that were measured later to the page and the goals of a whole run: each takes the place of its former section."""

import re
from dataclasses import asdict

# The sections that stand behind those of the workloads.
LAST = ("Memory of Moontide", "Missing", "How the programs are tuned")


def add_sections(text, sections, told):
    """The page with these sections, each with a line on its run."""
    for section in sections:
        head, _, rest = section.partition("\n\n")
        new = "\n\n".join([head, told, rest]).rstrip()
        there = re.search(rf"^{re.escape(head)}\n.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
        if there:
            text = text[:there.start()] + new + "\n\n" + text[there.end():]
            continue
        at = min(text.find(f"\n## {name}\n") for name in LAST if f"\n## {name}\n" in text) + 1
        text = text[:at] + new + "\n\n" + text[at:]
    return text


def add_rows(text, rows):
    """The page with these rows in its last table, by their first cell."""
    before, head, last = text.rpartition(f"## {LAST[-1]}\n")
    lines = last.rstrip().splitlines()
    for row in rows:
        first = row.split(" | ")[0] + " | "
        found = [at for at, line in enumerate(lines) if line.startswith(first)]
        if found:
            lines[found[-1]] = row
        else:
            lines.append(row)
    return before + head + "\n".join(lines) + "\n"


def add_goals(hour, goals, measured, order, run):
    """The goals of an hour, with those of the measured workloads anew, in the order of all workloads."""
    kept = [goal for goal in hour["goals"] if goal["workload"] not in measured]
    merged = kept + [asdict(goal) for goal in goals]
    merged.sort(key=lambda goal: order.index(goal["workload"]))
    later = [one | {"workloads": [name for name in one["workloads"] if name not in measured]} for one in hour.get("later", [])]
    later = [one for one in later if one["workloads"]]
    return hour | {"goals": merged, "later": [*later, run | {"workloads": sorted(measured)}]}
