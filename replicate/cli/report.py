"""Commands that read Records alone. None imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import replicate
from papers import PAPERS
from replicate import grid as grids
from replicate.cli.options import FORMATS, where_results, where_store, which_cells, which_format, which_selection
from replicate.cli.request import (
    Request,
    asked_for,
    edition_choices,
    known_among,
    load_paper,
    methods_of,
    reader,
    say_none,
)
from replicate.errors import BadInput
from replicate.protocol import Column, Paper, Table
from replicate.record import Store, write_atomically


@click.command("list")
@where_store
@where_results
def list_command(store: Path, results: Path) -> None:
    """Papers, tables, grids, methods, and what is done."""
    for name in PAPERS:
        paper = load_paper(name)
        kept = reader(store, results, paper)
        columns = [column for table in paper.tables for column in (*table.columns, *table.stand_ins)]
        there = {
            source: {edition: kept.seeds(source, edition) for edition in kept.editions(source)}
            for source in {column.data.source for column in columns}
        }
        click.echo(f"{paper.command}: {paper.title}\n  {paper.citation}")
        for table in paper.tables:
            click.echo(f"  table {table.number} (grid {table.grid}): {table.title}")
            for column in (*table.columns, *table.stand_ins):
                told = "; ".join(_done(paper, table, column, there)) or "nothing done"
                which = f"{column.dataset} --ratio {column.ratio}" + (f" --network {column.tag}" if column.tag else "")
                which += f", {column.path[-1]}" if column.then else ""
                click.echo(f"    {which}: {told}")
        for label, grid in paper.grids.items():
            click.echo(f"  grid {label}: {grid.title}; methods: {', '.join(grid.methods)}")
        for variant in paper.variants:
            click.echo(f"  variant {variant.name}: {variant.title}")


def _done(
    paper: Paper, table: Table, column: Column, editions: Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]
) -> Iterator[str]:
    """``editions``: by source and edition the seeds that are there for each programme's key."""
    source = column.data.source
    for edition, seeds in editions[source].items():
        planned = grids.cells(paper, table.grid, columns=[column], methods=methods_of(table))
        keys = {cell.programme.key(edition)[:24] for cell in planned} if seeds else set()
        done = sum(len(seeds.get(key, ())) for key in keys)
        if done:
            most = max(len(seeds.get(key, ())) for key in keys)
            yield f"{done} Records of {len(keys)} cells a seed, up to {most} seeds ({source}@{edition})"


def _with_tables(paper: str | None, which: dict[str, Any], **how: bool) -> Iterator[tuple[Request, Table]]:
    """As :func:`asked_for`, each with its table. Raises ``BadInput`` for a grid that prints in none, too."""
    for request in asked_for(paper, which, **how):
        if request.table is None:
            allowed = ", ".join(dict.fromkeys(t.grid for t in request.paper.tables if not t.descriptive))
            told = f"grid {request.grid!r} prints in no table; allowed: {allowed}"
            raise BadInput(f"{told}; what it trains is in `replicate figures` or `replicate measures {request.paper.command}`")
        yield request, request.table


def _one_by_one(form: str) -> Callable[[str], None]:
    """Prints texts that end with a line feed: an empty line between two, and of CSVs the heads of columns once."""
    shown = False

    def show(text: str) -> None:
        nonlocal shown
        if shown:
            text = text.partition("\n")[2] if form == "csv" else "\n" + text
        shown = True
        click.echo(text, nl=False)

    return show


@click.command("tables")
@click.argument("paper", required=False)
@which_cells
@where_store
@where_results
@which_selection
@click.option("--format", "form", type=click.Choice(tuple(FORMATS)), default="text", show_default=True)
@click.option("--published", is_flag=True, help="Print the published numbers in the same layout instead.")
def tables_command(
    paper: str | None, store: Path, results: Path, selection: str, form: str, published: bool, **which: Any
) -> None:
    """Print tables from Records alone, in the published layout."""
    from replicate.report import tables

    show = _one_by_one(form)
    if published:
        chosen = click.get_current_context().get_parameter_source("selection") is not ParameterSource.DEFAULT
        ours = {"selection": chosen, "variant": which["variant"], "quick": which["quick"], "grid": which["grid"]}
        if asked := next((name for name, value in ours.items() if value), None):
            raise BadInput(f"--published prints the paper's own numbers, whatever --{asked} says of ours; leave one out")
    for request, table in _with_tables(paper, which, stand_ins=True, words=True):
        if table.descriptive:
            if published or which["table"] is not None:
                show(tables.render(request.paper, table, {}, form))
            continue
        if published:
            columns = [column for column in request.columns if not column.stand_in]
            numbers = tables.printed(request.paper, table)
            if which["methods"]:
                rows = [(b.title, row.label) for b in table.blocks for row in b.rows if row.method in request.methods]
                numbers = {key: number for key, number in numbers.items() if key[:2] in rows}
            show(tables.render(request.paper, table, numbers, form, columns=columns, beside=request.beside))
            continue
        kept = reader(store, results, request.paper)
        shown = 0
        for columns, editions in edition_choices(request, kept):
            printer = table_printer(request, kept, editions, columns, selection, results)
            if printer is not None:
                shown += 1
                show(printer(format=form))
        if not shown:
            say_none(request, kept)


def table_printer(
    request: Request, store: Store, editions: Mapping[str, str], columns: Sequence[Column], selection: str, results: Path
) -> Callable[..., str] | None:
    """Prints the request's table in a format, from Records; None if there is no Record."""
    from replicate.report import counterparts, tables

    assert request.table is not None
    how: dict[str, Any] = {
        "selection": selection,
        "edition_of": editions,
        "variant": request.variant,
        "quick": request.quick,
        "columns": columns,
        "grid": request.grid,
    }
    values = tables.replicas(store, request.paper, request.table, methods=request.methods, **how)
    if not values:
        return None

    def other(name: str) -> tuple[Paper, Store]:
        paper = load_paper(name)
        return paper, reader(store.root, results, paper)

    own = counterparts.counterparts(request.table, columns, other, selection=selection, edition_of=editions)
    how |= {"methods": request.methods, "beside": request.beside, "counterparts": own}
    return partial(tables.render, request.paper, request.table, values, **how)


@click.command("diff")
@click.argument("paper", required=False)
@which_cells
@where_store
@where_results
@click.option("--format", "form", type=click.Choice(("text", "markdown", "csv")), default="text", show_default=True)
@click.option("--second-run", is_flag=True, help="The authors' own second run against their table, where there is one.")
def diff_command(paper: str | None, store: Path, results: Path, form: str, second_run: bool, **which: Any) -> None:
    """Replica, published number, difference and verdict, cell by cell; exits 1 if a fully specified row differs.

    Stand-ins have no published number to differ from: they are shown where --dataset names them.
    """
    from replicate.report import diff

    if second_run:
        _second_runs(paper, form, which)
        return
    worst, show = 0, _one_by_one(form)
    for request, _ in _with_tables(paper, which, stand_ins=False):
        kept = reader(store, results, request.paper)
        shown = 0
        for columns, editions in edition_choices(request, kept):
            rows = compared(request, kept, columns, editions)
            if which["methods"]:  # all are judged, and those that were asked for shown
                rows = [row for row in rows if row.spot.row.method in request.methods]
            if all(row.replica is None for row in rows):
                continue
            shown += 1
            show(diff.render(rows, form))
            worst = max(worst, diff.exit_code(rows))
        if not shown:
            say_none(request, kept, of="" if which["datasets"] else " on the paper's own data")
    sys.exit(worst)


def compared(request: Request, kept: Store, columns: Sequence[Column], editions: Mapping[str, str]) -> list[Any]:
    """The request's table in these columns against the published one, number by number."""
    from replicate.report import diff

    assert request.table is not None
    return diff.compare(
        kept,
        request.paper,
        request.table,
        **_judged_by(request.table, kept, editions),
        variant=request.variant,
        quick=request.quick,
        columns=columns,
        grid=request.grid,
    )


def _judged_by(table: Table, kept: Store, editions: Mapping[str, str]) -> dict[str, Any]:
    """See :func:`replicate.report.diff.judged_by`."""
    from replicate.data.editions import comparability
    from replicate.report import diff

    return diff.judged_by(table, kept, editions, comparability)


def _second_runs(paper: str | None, form: str, which: Mapping[str, Any]) -> None:
    """Of one paper or of all. Raises ``BadInput`` if the paper has none, or if other options ask for something of ours."""
    from replicate.report import second_run

    asked = next((name for name, value in which.items() if value), None)
    if asked is not None:
        raise BadInput(f"--second-run has no cells of ours to choose by --{asked.rstrip('s')}; leave one out")
    having = [loaded for loaded in map(load_paper, PAPERS) if loaded.second_runs]
    chosen = having if paper is None else [loaded for loaded in having if loaded is load_paper(paper)]
    if not chosen:
        allowed = ", ".join(loaded.command for loaded in having)
        raise BadInput(f"paper {paper!r} has no second run by its authors; allowed: {allowed}")
    show = _one_by_one(form)
    for loaded in chosen:
        for run in loaded.second_runs:
            show(second_run.render(loaded, run, form))


@click.command("claims")
@click.argument("paper", required=False)
@click.option("--table", "table", metavar="N", help="Only claims about this table.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this data set; a stand-in only where named.")
@click.option("--variant", "variant", metavar="NAME", help="Runs of another reading of a quirk.")
@where_store
@where_results
@which_selection
@which_format
def claims_command(paper: str | None, store: Path, results: Path, form: str, **which: Any) -> None:
    """What papers claim in prose: does it hold on their own numbers, and on ours?"""
    from replicate.report import claims

    refused: list[BadInput] = []
    some, show = False, _one_by_one(form)
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        try:
            found = list(judged_claims(loaded, reader(store, results, loaded), **which))
        except BadInput as error:  # another paper may know it
            refused.append(error)
            continue
        of = [f"table {which['table']}"] * bool(which["table"]) + [*which["datasets"]]
        of += [f"variant {which['variant']}"] * bool(which["variant"])
        some = True
        show(claims.render(loaded, found, form, selection=which["selection"], note=", ".join(of)))
    if not some:
        raise refused[0]


def judged_claims(
    paper: Paper, kept: Store, *, table: str | None, datasets: Sequence[str], variant: str | None, selection: str
) -> Iterator[Any]:
    """Claims on published numbers, then on ours in one edition of the data after another. Raises ``BadInput`` for none."""
    from replicate.data.editions import comparability
    from replicate.report import claims, diff

    grids.variant_values(paper, variant)
    if table is not None:
        known_among("table", [table], [t.number for t in paper.tables], paper.command)
    every = list({c.name: c for t in paper.tables for c in (*t.columns, *t.stand_ins)}.values())
    known_among("data set", datasets, [column.dataset for column in every], f"{paper.command} has")
    chosen = [claim for claim in paper.claims if table is None or any(part.of(table) for part in claim.comparisons)]
    some = False
    for stand_in in (False, True) if datasets else (False,):
        asked = [c for c in every if c.stand_in is stand_in and (not datasets or c.dataset in datasets)]
        # First what is most like the paper's data, all sources together; then their other editions.
        first = diff.closest(asked, kept, comparability)
        others = {source: [e for e in kept.editions(source) if e != edition] for source, edition in first.items()}
        rounds = [first]
        for place in range(max(map(len, others.values()), default=0)):
            rounds.append({source: editions[place] for source, editions in others.items() if place < len(editions)})
        for number, editions in enumerate(rounds if asked else ()):
            for one in claims.judged(
                paper,
                kept,
                edition_of=editions,
                comparability={source: comparability(source, edition) for source, edition in editions.items()},
                selection=selection,
                variant=variant,
                stand_in=stand_in,
                datasets={column.dataset for column in asked} if datasets else (),
                claims=chosen,
            ):
                if number == 0 or one.of != "published":
                    some = True
                    yield one
    if not some:
        raise BadInput(f"no claim of {paper.command} is left by these options; leave one out")


@click.command("lens")
@click.argument("paper", required=False)
@which_cells
@where_store
@where_results
@which_format
def lens_command(paper: str | None, store: Path, results: Path, form: str, **which: Any) -> None:
    """One table under every selection side by side, and what each row gains from looking at the test set."""
    from replicate.report import lens

    refused: list[BadInput] = []
    some, show = False, _one_by_one(form)
    for request, table in _with_tables(paper, which, stand_ins=True):
        if lens.accuracy(table) is None:  # another table may have some
            having = ", ".join(t.number for t in request.paper.tables if lens.accuracy(t) is not None)
            told = f"table {table.number} of {request.paper.command} has no accuracy to select by; allowed: {having}"
            refused.append(BadInput(told))
            continue
        some = True
        kept = reader(store, results, request.paper)
        shown = 0
        for columns, editions in edition_choices(request, kept):
            how: dict[str, Any] = {"variant": request.variant, "quick": request.quick, "grid": request.grid}
            found = lens.lines(kept, request.paper, table, edition_of=editions, columns=columns, methods=request.methods, **how)
            if found:
                show(lens.render(found, form, quick=request.quick))
                shown += 1
        if not shown:
            say_none(request, kept)
    if not some:
        raise refused[0]


@click.command("readings")
@click.argument("paper", required=False)
@which_cells
@where_store
@where_results
@which_format
def readings_command(paper: str | None, store: Path, results: Path, form: str, variant: str | None, **which: Any) -> None:
    """Where text and code disagree: every reading that was run beside the one followed here and the published number."""
    from replicate.report import readings

    some, show = False, _one_by_one(form)
    for request, table in _with_tables(paper, {**which, "variant": variant}, stand_ins=False):
        variants = [known.name for known in request.paper.variants] if variant is None else [variant]
        others = [v for v in variants if grids.moves(request.paper, request.grid, request.columns, request.methods, v)]
        if not others:
            continue
        some = True
        kept = reader(store, results, request.paper)
        shown = 0
        for columns, editions in edition_choices(request, kept):
            found = readings.lines(
                kept,
                request.paper,
                table,
                **_judged_by(table, kept, editions),
                columns=columns,
                methods=request.methods,
                variants=others,
                quick=request.quick,
                grid=request.grid,
            )
            if found:
                show(readings.render(found, form))
                shown += 1
        if not shown:
            say_none(request, kept, of=" of another reading", also=f" and --variant {' or '.join(others)}")
    if not some:
        papers = [load_paper(name) for name in ([paper] if paper else PAPERS)]
        having = ", ".join(f"{known.name} ({known.title})" for loaded in papers for known in loaded.variants)
        whose = paper or "any paper"
        raise BadInput(f"no other reading of {whose} changes what these options choose; leave one out; allowed: {having}")


@click.command("across")
@where_store
@where_results
@which_selection
@which_format
def across_command(store: Path, results: Path, selection: str, form: str) -> None:
    """The same method on the same data as several papers print it, beside ours."""
    from replicate.data.editions import comparability
    from replicate.report import across

    papers = [load_paper(name) for name in PAPERS]
    found = across.lines([(paper, reader(store, results, paper)) for paper in papers], comparability, selection)
    click.echo(across.render(found, form), nl=False)


@click.command("figures")
@click.argument("paper", required=False)
@click.option("--figure", "numbers", multiple=True, metavar="N", help="Only this figure; may be given again.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this data set; may be given again.")
@where_store
@where_results
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures; results/PAPER/figures, if left out.")
def figures_command(
    paper: str | None, numbers: tuple[str, ...], datasets: tuple[str, ...], store: Path, results: Path, out: Path | None
) -> None:
    """Draw figures as published from Records and Measures alone: PNG, SVG, and the CSV of what is drawn."""
    from replicate.report import figures

    refused: list[BadInput] = []
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        folder = results / loaded.name / "figures" if out is None else out if paper else out / loaded.name
        try:
            for figure in figures.figures(loaded, reader(store, results, loaded), numbers=numbers, datasets=datasets):
                if isinstance(figure, figures.Drawn):
                    click.echo(f"{loaded.command}, {figure.title}\n  {figures.write(figure, folder)}.png, .svg and .csv")
                else:
                    told = figure.note.replace("\n", "\n  ")
                    click.echo(f"{loaded.command}, {figure.title}\n  not drawn: {told}")
                for command in figure.commands:
                    click.echo(f"  to run what is missing: {command}")
        except figures.Unknown as error:  # another paper may know it
            refused.append(error)
    if len(refused) == (1 if paper else len(PAPERS)):
        raise refused[0]


@click.command("why")
@click.argument("paper")
@click.argument("row")
@click.argument("dataset")
@click.argument("ratio", type=int)
@click.option("--table", "table", metavar="N", help="The table, where several have the row.")
@click.option("--network", "network", metavar="NAME", help="The network, where the table has several.")
@click.option("--then", "then", metavar="LABEL", help="The second stage that follows, where the table has several.")
@click.option("--variant", "variant", metavar="NAME", help="Runs of another reading of a quirk.")
@where_store
@where_results
@which_selection
def why_command(
    paper: str, row: str, dataset: str, ratio: int, table: str | None, network: str | None, then: str | None,
    variant: str | None, store: Path, results: Path, selection: str,
) -> None:  # fmt: skip
    """Explain one number: ROW (its label or method) of PAPER on DATASET at imbalance RATIO.

    Runs, what was chosen and how close the rest was, curves, environment, verdict, quirks, and the command that makes it.
    """
    from replicate.data.editions import comparability
    from replicate.report import why

    loaded = load_paper(paper)
    found = why.places(loaded, row, dataset, ratio, table=table, network=network, then=then, variant=variant)
    click.echo(why.explain(loaded, reader(store, results, loaded), found, comparability, selection), nl=False)


@click.command("checklist")
@click.argument("paper", required=False)
@where_store
@where_results
@click.option("--format", "form", type=click.Choice(("text", "markdown")), default="text", show_default=True)
def checklist_command(paper: str | None, store: Path, results: Path, form: str) -> None:
    """What a conference's reproducibility checklist asks, filled in from Records: runs, spread, choices, compute, data."""
    from replicate.report import checklist

    papers = [load_paper(name) for name in ([paper] if paper else PAPERS)]
    click.echo("\n".join(checklist.render(one, reader(store, results, one), form) for one in papers), nl=False)


@click.command("page")
@where_store
@where_results
@click.option("--out", type=click.Path(path_type=Path), help="The file; results/page.html, if left out.")
def page_command(store: Path, results: Path, out: Path | None) -> None:
    """Write everything that Records say as one HTML page: tables, verdicts, figures, claims, and what is behind each number."""
    from replicate.data.editions import comparability
    from replicate.report import page

    def of(name: str) -> tuple[Paper, Store]:
        paper = load_paper(name)
        return paper, reader(store, results, paper)

    chapters = page.chapters(PAPERS, comparability, of)
    file = results / "page.html" if out is None else out
    text = page.render(chapters, replicate.__version__)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode())
    except OSError as error:
        raise BadInput(f"page {str(file)!r} cannot be written ({error.strerror}); name another file with --out") from None
    click.echo(f"page: {file} ({len(text.encode()) / 2**20:.1f} MiB)")
