"""Metrics for a person to read."""

from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from vitpose_jax.evaluation.coco import NOTHING_TO_MEASURE


def print_metrics(
    results: Mapping[str, Mapping[str, float]],
    published: Mapping[str, Mapping[str, float]] | None = None,
    *,
    footnotes: Sequence[str] = (),
    console: rich.console.Console | None = None,
) -> None:
    """Print a table of metrics, beside the published values where there are any.

    Args:
        results: {data set: {metric: value}}.
        published: the same of a paper or a model's README, in the same units; may lack data sets and metrics.
        footnotes: sentences below the table, such as how the published values were measured.
        console: where to print; standard output by default.
    """
    published = published or {}
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("data set", style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right", style="bold")
    if published:
        table.add_column("published", justify="right")
        table.add_column("difference", justify="right")
    for dataset, metrics in results.items():
        references = published.get(dataset, {})
        for row, (metric, value) in enumerate(metrics.items()):
            cells = [dataset if row == 0 else "", metric, "–" if value == NOTHING_TO_MEASURE else f"{value:.3f}"]
            if metric in references:
                difference = value - references[metric]
                color = "green" if difference >= 0 else "red"
                cells += [f"{references[metric]:.3f}", f"[{color}]{difference:+.3f}[/]"]
            table.add_row(*cells, end_section=row == len(metrics) - 1)
    console = console or rich.console.Console()
    console.print(table)
    for footnote in footnotes:
        console.print(footnote, markup=False, highlight=False, soft_wrap=True)
