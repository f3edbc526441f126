"""The command that prints Measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicate.cli.options import where_data, where_results, where_store, which_cells
from replicate.cli.request import asked_for, edition_choices, load_images, load_paper, reader
from replicate.errors import BadInput
from replicate.protocol import Paper
from replicate.record import Store

if TYPE_CHECKING:
    from replicate.data.sources import Images
    from replicate.report.logits import Chosen


#: Views of Measures that one paper alone has, and the paper.
_VIEWS = {"steps": "wb", "normals": "lort", "smoothing": "lort", "sensitivity": "lort", "sample": "lort"}


@click.command("measures")
@click.argument("paper")
@which_cells
@where_store
@where_results
@where_data
@click.option("--classes", is_flag=True, help="Every class on a line of its own.")
@click.option("--steps", is_flag=True, help="Discriminant ratios after every step of a perceptron (wb, Fig. 2).")
@click.option("--normals", is_flag=True, help="Positive and negative logits of groups of classes (lort, Fig. 2).")
@click.option("--smoothing", is_flag=True, help="Accuracy over delta (lort, Fig. 4).")
@click.option("--sensitivity", is_flag=True, help="Accuracy over learning rate and weight decay (lort, Fig. 5).")
@click.option(
    "--sample", type=int, metavar="INDEX", help="Logits of this test image, counted from 0 (lort, Fig. 1); needs checkpoints."
)
def measures_command(paper: str, store: Path, results: Path, data: Path | None, **which: Any) -> None:
    """What the paper's analysis says of every finished run, from its Measures alone.

    unified-bound: B_y(f), Lemma 4, the sum of Eq. 16 without C(F). wb: discriminant ratios, cosines, norms, batch norm,
    forgetting, and how near its theorems are. lort: Logits Magnitude and Regularized Standard Deviation at the chosen grid
    points.
    """
    from replicate.report import bounds, geometry, logits

    asked = {name: which.pop(name) for name in ("classes", *_VIEWS)}
    views = [name for name, value in asked.items() if value is not None and value is not False]  # image 0 is one
    loaded = load_paper(paper)
    report = next((report for report in (bounds, geometry, logits) if report.MEASURE in loaded.measures), None)
    if report is None:
        raise BadInput(f"{paper} has no Measures; allowed: a paper whose module names some")
    for view in views:
        if _VIEWS.get(view, loaded.name) != loaded.name:
            raise BadInput(f"--{view} is a view of {_VIEWS[view]}, which {paper} does not have; leave it out")
    if len(views) > 1:
        raise BadInput(f"--{views[0]} and --{views[1]} are two views; name one")
    view = views[0] if views else ""
    if report is logits:
        where = (loaded, which, store, results)
        click.echo(_sample(*where, data, asked["sample"]) if view == "sample" else _logits(*where, view), nl=False)
        return
    how = {view: True} if view else {}
    lines: dict[tuple[Any, ...], None] = {}  # tables share runs: each is told once
    for request in asked_for(paper, which, stand_ins=True):
        kept = reader(store, results, request.paper)
        for columns, editions in edition_choices(request, kept):
            request.columns = columns
            lines |= dict.fromkeys(report.lines(kept, request.cells(), editions, **how))
    if not lines:
        raise BadInput(f"no Measures are there for {paper!r} by these options; run `replicate {paper}` first")
    click.echo(report.render(list(lines), **how), nl=False)


def _logits(paper: Paper, which: dict[str, Any], store: Path, results: Path, view: str) -> str:
    """Figures 2 to 5 of the logits-retargeting paper. Raises ``BadInput`` if nothing is there for them."""
    from replicate.report import logits

    grid = {"smoothing": logits.SMOOTHING, "sensitivity": logits.SENSITIVITY}.get(view)
    if grid is not None and (which["table"] is not None or which["grid"] not in (None, grid)):
        raise BadInput(f"--{view} is about grid {grid}; leave out --table and --grid")
    lines: list[Any] = []
    of_view: Callable[..., Iterator[Any]] = {"smoothing": logits.smoothing, "sensitivity": logits.sensitivity}.get(
        view, logits.lines
    )
    for request in asked_for(paper.command, {**which, "grid": grid or which["grid"]}, stand_ins=True):
        table = request.table or paper.tables[0]  # a grid without a table of its own has rows of the first
        kept = reader(store, results, paper)
        for columns, editions in edition_choices(request, kept):
            lines += of_view(
                kept,
                paper,
                table,
                editions,
                columns=columns,
                methods=request.methods,
                grid=request.grid,
                variant=request.variant,
                quick=request.quick,
            )
    if not lines:
        what, more = ("finished runs", f" --grid {grid}") if grid else ("Measures", "")
        raise BadInput(
            f"no {what} are there for {paper.command!r} by these options; run `replicate {paper.command}{more}` on the same "
            "data first, without --quick"
        )
    if view == "smoothing":
        return logits.render_smoothing(lines)
    return logits.render_sensitivity(lines) if view == "sensitivity" else logits.render(lines, view)


def _sample(paper: Paper, which: dict[str, Any], store: Path, results: Path, data: Path | None, index: int) -> str:
    """Logits of one test image under the networks that stand for methods of the first table: those of Fig. 1, or those that
    were asked for. Raises ``BadInput`` where there is no such image, or no checkpoint."""
    from replicate.report import logits

    if not (which["table"] or which["grid"]):
        which = {**which, "table": paper.default_tables[0]}
    if which["table"] == paper.default_tables[0]:
        which = {**which, "methods": which["methods"] or logits.OF_SAMPLE}
    parts: list[str] = []
    loaded: dict[str, Images] = {}
    for request in asked_for(paper.command, which, stand_ins=False):
        kept = reader(store, results, paper)
        for columns, editions in edition_choices(request, kept):
            table = request.table or paper.tables[0]  # a grid without a table of its own has rows of the first
            how: dict[str, Any] = {
                "methods": request.methods, "grid": request.grid, "variant": request.variant, "quick": request.quick,
            }  # fmt: skip
            for column in columns:
                found = [one for _, one in logits.chosen(kept, paper, table, editions, columns=[column], **how)]
                source = column.data.source
                if found and source not in loaded:
                    loaded |= load_images([source], data)
                if found and loaded[source].edition == editions[source]:
                    parts.append(_sample_of(paper, found, loaded[source], kept, index))
    if not parts:
        raise BadInput(
            f"no finished runs are there for {paper.command!r} on the images at hand; run `replicate {paper.command}` first, "
            "or name a stand-in with --dataset"
        )
    return "\n".join(parts)


def _sample_of(paper: Paper, found: Sequence[Chosen], images: Images, kept: Store, index: int) -> str:
    """Test image ``index`` under each of the networks of one column; see :func:`_sample`."""
    import torch

    from replicate.data.editions import OFFICIAL
    from replicate.data.longtail import split
    from replicate.engine import numerics
    from replicate.engine.cell import restored
    from replicate.engine.loop import DeviceData
    from replicate.launch.lanes import mode_of
    from replicate.measures.logits import image_logits
    from replicate.report import logits

    programme, device = found[0].cell.programme, torch.device("cpu")
    shown = DeviceData(split(images, programme.start.data), programme, device)
    if not 0 <= index < len(shown.test):
        raise BadInput(f"test image {index} is not there; {found[0].cell.column.name} has 0 to {len(shown.test) - 1}")
    numerics.enter(mode_of(found[0].cell, device))
    rows: list[tuple[str, int, list[float]]] = []
    for one in found:
        cell = one.cell
        if cell.programme.adjustment is not None:
            raise BadInput(f"method {cell.method!r} adjusts a trained network; allowed with --sample: methods that train one")
        states = ((seed, restored(replace(cell, seed=seed), kept, one.edition, device)) for seed in one.seeds)  # one at a time
        of_method = [
            (cell.method, seed, image_logits(state.handed_over(), shown.test, index))
            for seed, state in states
            if state is not None
        ]
        if not of_method:
            column, network = cell.column, f"{cell.method} {one.point()}".strip()
            raise BadInput(
                f"store {str(kept.root)!r} has no checkpoint of {network}; run `replicate {paper.command} "
                f"--dataset {column.dataset} --ratio {column.ratio} --method {cell.method!r}` with a store without its Record"
            )
        rows += of_method
    truth = int(shown.test.labels[index])
    return logits.render_sample(paper, found[0].data, index, truth, rows, official=found[0].edition == OFFICIAL)
