"""The evaluation as people read it: a table, plots as PNG, and a page that has them all in itself."""

from __future__ import annotations

import base64
import html
import importlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.evaluate import MEASURES, PARTS, POLICIES, REPLICAS

WIDTHS = (46, 12, 22, 14)
COLOURS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#bbbbbb")
CAPTIONS = {
    "experiments": "The three experiments beside the report's figures (bars: medians; lines: least and most).",
    "where": "Where the time of a run goes: the second run of the baseline, by step and by what it waited for.",
    "replication": "What replication costs: the baseline over 1, 2, 4 and 8 storage nodes.",
    "crashes": "A storage node is killed at each step of a commit: milliseconds from its death, and to the answer.",
    "policies": "Two policies of scheduling on operators of 50 and 5 ms, two workers with one thread each.",
    "scale": "Simulated: what grows how with the number of storage nodes, in one group and in groups of four.",
}


def table(found: dict[str, Any]) -> str:
    """The experiments beside the report, and the ratios that count."""
    experiments, given = found["experiments"], found["report"]
    lines = [_columns("experiment", "median ms", "least … most", "report ms")]
    names = {
        "baseline": "baseline, 4 storage nodes, waits included",
        "baseline_1": "baseline, 1 storage node",
        "best_case": "best case, to the last completion",
        "worst_case_crash": "worst case with the crash",
        "worst_case": "worst case without it",
    }
    for name, text in names.items():
        ms = experiments[name]["ms"]
        span = f"{ms['least']:,.0f} … {ms['most']:,.0f}"
        lines.append(_columns(text, f"{ms['median']:,.0f}", span, f"{given[name]:,.0f}"))
    for what, over, under, most in (
        ("baseline, 4 to 1 storage nodes", "baseline", "baseline_1", 1.01),
        ("worst case, with the crash to without", "worst_case_crash", "worst_case", 1.05),
    ):
        ratio = experiments[over]["ms"]["median"] / experiments[under]["ms"]["median"]
        verdict = f"≤ {most}: {'yes' if ratio <= most else 'NO'}"
        lines.append(_columns(what, f"{ratio:.3f}", verdict, f"{given[over] / given[under]:.3f}"))
    four, one = (experiments[name]["completed"]["median"] for name in ("baseline", "baseline_1"))
    lines.append(_columns("  to the last end of a run instead", f"{four / one:.3f}", "", ""))
    worst = max(found["crashes"], key=lambda crash: crash["added_ms"])
    verdict = f"≤ 100: {'yes' if worst['added_ms'] <= 100 else 'NO'}"
    lines.append(
        _columns(f"added by a kill at {worst['step']}, the worst step", f"{worst['added_ms']:.0f}", verdict, "")
    )
    for policy in POLICIES:
        ms = found["policies"][policy]
        span = f"{ms['least']:,.0f} … {ms['most']:,.0f}"
        lines.append(_columns(f"unequal operators, {policy}", f"{ms['median']:,.0f}", span, ""))
    return "\n".join(lines)


def _columns(*cells: str) -> str:
    return (
        f"{cells[0]:{WIDTHS[0]}}" + "".join(f"{c:>{w}}" for c, w in zip(cells[1:], WIDTHS[1:], strict=True))
    ).rstrip()


def laws(found: dict[str, Any]) -> str:
    """How fast things grow, as powers of the number of replicas."""
    lines = [_columns("grows with replicas to the power of", *found["scale"]["laws"], "")]
    for what in MEASURES:
        powers = [f"{law[what]:.2f}" for law in found["scale"]["laws"].values()]
        lines.append(_columns(what.replace("_", " "), *powers, ""))
    for name in found["scale"]["laws"]:
        sizes = [size["replicas"] for size in found["scale"][name]]
        lines.append(f"{name}: simulated from {sizes[0]} to {sizes[-1]} replicas")
    return "\n".join(lines)


def write(folder: Path, found: dict[str, Any]) -> None:
    """The plots as PNG files, and index.html with all of them in it."""
    plots = importlib.import_module("matplotlib.figure")
    parts = []
    for name, draw in PLOTS.items():
        figure = plots.Figure(figsize=(8.5, 4), layout="constrained")
        draw(figure, found)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        (folder / f"{name}.png").write_bytes(picture.getvalue())
        source = base64.b64encode(picture.getvalue()).decode()
        caption = html.escape(CAPTIONS[name])
        parts.append(f'<h2>{caption}</h2>\n<img alt="{caption}" src="data:image/png;base64,{source}">')
    machine = found["machine"]
    about = ", ".join(
        (
            machine["date"],
            f"commit {machine['commit']}",
            f"{machine['cores']} cores of {machine['cpu']}",
            f"Python {machine['python']}",
            *(f"{name} {version}" for name, version in machine["packages"].items()),
            f"load average {machine['load_average'][0]:.1f} at the start",
            f"{found['turns']} turns",
        )
    )
    text = html.escape(f"{table(found)}\n\n{laws(found)}")
    (folder / "index.html").write_text(PAGE.format(about=html.escape(about), table=text, plots="\n".join(parts)))


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>DIDA: evaluation</title>
<style>
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; color: #222 }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto; font-size: 13px }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem }}
img {{ max-width: 100%; height: auto }}
</style>
<h1>DIDA: evaluation</h1>
<p>{about}</p>
<pre>{table}</pre>
{plots}
</html>
"""


def _experiments(figure: Any, found: dict[str, Any]) -> None:
    axes = figure.subplots()
    names = list(found["report"])
    spreads = [found["experiments"][name]["ms"] for name in names]
    places = range(len(names))
    medians = [spread["median"] for spread in spreads]
    below = [spread["median"] - spread["least"] for spread in spreads]
    above = [spread["most"] - spread["median"] for spread in spreads]
    axes.bar([p - 0.2 for p in places], medians, 0.4, yerr=[below, above], capsize=4, label="DIDA", color=COLOURS[0])
    axes.bar([p + 0.2 for p in places], list(found["report"].values()), 0.4, label="the report", color=COLOURS[4])
    axes.set_xticks(list(places), [name.replace("_", " ") for name in names])
    axes.set_ylabel("ms")
    axes.legend()


def _where(figure: Any, found: dict[str, Any]) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    labels = ["Add", "UpdateAndChain", "Add", "between"]
    for place, (name, title) in zip(
        axes, (("baseline_1", "1 storage node"), ("baseline", "4 storage nodes")), strict=True
    ):
        _stacked(place, labels, found["experiments"][name]["steps"])
        place.set_title(title)
        place.tick_params(axis="x", labelrotation=20)
    axes[0].set_ylabel("ms")
    axes[1].legend()


def _stacked(axes: Any, labels: Sequence[str], steps: Sequence[dict[str, float]]) -> None:
    bottom = [0.0] * len(steps)
    for part, colour in zip(PARTS, COLOURS, strict=True):
        values = [step[part] for step in steps]
        axes.bar(range(len(steps)), values, bottom=bottom, label=part, color=colour)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_xticks(range(len(steps)), labels)


def _replication(figure: Any, found: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    kinds = [found["experiments"]["baseline" if n == 4 else f"baseline_{n}"] for n in REPLICAS]
    labels = [str(n) for n in REPLICAS]
    totals = [{part: sum(step[part] for step in kind["steps"]) for part in PARTS} for kind in kinds]
    _stacked(left, labels, totals)
    left.set_title("one run")
    left.legend()
    medians = [kind["ms"]["median"] for kind in kinds]
    right.plot(labels, medians, "o-", color=COLOURS[0])
    right.set_ylim(0, 1.15 * max(medians))
    right.set_title("the whole script, waits included")
    for axes in (left, right):
        axes.set_xlabel("storage nodes")
        axes.set_ylabel("ms")


def _crashes(figure: Any, found: dict[str, Any]) -> None:
    axes = figure.subplots()
    crashes = found["crashes"]
    width = 0.28
    kinds = (("detected_ms", "detected"), ("view_ms", "new view"), ("added_ms", "added to the answer"))
    for number, (name, label) in enumerate(kinds):
        places = [p + (number - 1) * width for p in range(len(crashes))]
        axes.bar(places, [crash[name] for crash in crashes], width, label=label, color=COLOURS[number])
    labels = [f"{crash['step']}\n{crash['who']}" for crash in crashes]
    axes.set_xticks(range(len(crashes)), labels, rotation=60, fontsize=7)
    axes.set_ylabel("ms")
    axes.axhline(100, color="#222", linewidth=0.8, linestyle=":")
    axes.legend()


def _policies(figure: Any, found: dict[str, Any]) -> None:
    axes = figure.subplots()
    for place, policy in enumerate(POLICIES):
        spread = found["policies"][policy]
        error = [[spread["median"] - spread["least"]], [spread["most"] - spread["median"]]]
        axes.barh(place, spread["median"], xerr=error, capsize=4, color=COLOURS[place])
    axes.set_yticks(range(len(POLICIES)), POLICIES)
    axes.set_xlabel("ms for 40 runs, every second one long")


def _scale(figure: Any, found: dict[str, Any]) -> None:
    places = figure.subplots(1, 3)
    kinds = (
        ("messages a second, of a node at rest", ("messages",)),
        ("bytes a second, of a node at rest", ("bytes",)),
        ("ms until …", ("converged", "killed", "silent")),
    )
    marks = {"converged": "o", "killed": "s", "silent": "^"}
    for axes, (title, names) in zip(places, kinds, strict=True):
        for colour, group in zip(COLOURS, found["scale"]["laws"], strict=False):
            sizes = found["scale"][group]
            for name in names:
                factor = 1000 if len(names) > 1 else 1
                label = f"{group}: {name}" if len(names) > 1 else group
                values = [factor * size[name] for size in sizes]
                axes.loglog(
                    [size["replicas"] for size in sizes], values, marks.get(name, "o") + "-", label=label, color=colour
                )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("storage nodes")
        axes.legend(fontsize=6)


PLOTS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "experiments": _experiments,
    "where": _where,
    "replication": _replication,
    "crashes": _crashes,
    "policies": _policies,
    "scale": _scale,
}
