"""Tables and plots of benchmarks, and their places in docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bench.baseline import ROOT

PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
COLOURS = {"ours": "#1f6f8b", "baseline": "#b5651d"}


def command(target: str, full: bool) -> str:
    """What one types to measure it again."""
    return f"`make {target}{' FULL=1' if full else ''}`"


def median_and_range(values: Sequence[float]) -> str:
    """A median, and how far the runs lie apart."""
    if len(values) < 2:
        return f"{values[0]:,.0f}" if values else "–"
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)).replace(" --- ", "---")


def publish(name: str, text: str, *, write: bool) -> None:
    """Print ``text``; with ``write`` put it between the page's two marks of this name as well."""
    click.echo(text + "\n")
    if not write:
        return
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = PAGE.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise click.ClickException(f"{PAGE.name} has no place for it: {begin} … {end}")
    before, rest = page.split(begin, 1)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


@dataclass
class Plot:
    """Curves of messages per second: for each side, what each run of a point gave."""

    title: str
    label: str
    curves: Mapping[str, Mapping[float, Sequence[float]]]
    logarithmic: bool = False

    def write(self, name: str) -> str:
        """Draw it into docs/images; answers how Markdown shows it."""
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = "swh_sched_runner"  # the same figures give the same file
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
        for side, points in self.curves.items():
            at = sorted(points)
            middle = [statistics.median(points[x]) for x in at]
            spread = [
                [y - min(points[x]) for x, y in zip(at, middle, strict=True)],
                [max(points[x]) - y for x, y in zip(at, middle, strict=True)],
            ]
            axes.errorbar(at, middle, spread, marker="o", capsize=3, label=side, color=COLOURS[side])
        if self.logarithmic:
            axes.set_xscale("log")
        else:
            axes.set_xticks(sorted({x for points in self.curves.values() for x in points}))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set(title=self.title, xlabel=self.label, ylabel="messages per second")
        axes.grid(alpha=0.3)
        axes.legend()
        IMAGES.mkdir(parents=True, exist_ok=True)
        figure.savefig(IMAGES / name, metadata={"Date": None})
        pyplot.close(figure)
        return f"![{self.title}]({Path('images') / name})"
