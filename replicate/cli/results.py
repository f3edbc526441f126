"""The results folder: whole tables, verdicts and claims in files, a page of contents, and the Records behind them. Nothing here
imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from papers import PAPERS
from replicate.cli.options import FORMATS, where_results, where_store
from replicate.cli.report import compared, judged_claims, table_printer
from replicate.cli.request import Elsewhere, Request, all_programmes, counted, load_paper, reader, same_rows
from replicate.errors import BadInput
from replicate.protocol import Column, Paper
from replicate.record import Store, parse, write_atomically


@click.command("results")
@click.argument("paper", required=False)
@where_store
@where_results
def results_command(paper: str | None, store: Path, results: Path) -> None:
    """Write what the store has into the results folder: tables, verdicts, claims, contents, and the Records and Measures behind
    them.

    Records that the folder has already count too; where both have one, the store's replaces it. Quick runs stay out.
    """
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        kept = reader(store, results, loaded)
        counts = _copy(loaded, Store(store), results)
        written = [table for request in _requests(loaded, kept) for table in write_tables(request, kept, results)]
        write_claims(loaded, kept, results)
        write_contents(loaded, written, kept, results)
        told = (f"{kind}: {new:,} of {every:,} copied" for kind, (every, new) in counts.items())
        click.echo(f"{results / loaded.name}: {counted(len(written), 'table')} written; {'; '.join(told)}")


@dataclass(frozen=True)
class TableFiles:
    """A table that was written: ``path`` is that of its files without their suffixes."""

    path: Path
    request: Request
    columns: Sequence[Column]
    editions: Mapping[str, str]


def write_tables(request: Request, kept: Store, results: Path, trained: Mapping[str, str] | None = None) -> list[TableFiles]:
    """Write the whole of a request's table (every row and column, whichever were asked for) in every format, and its verdicts
    where numbers may meet published ones: a set of files for each group of columns that has a Record.

    ``trained``: only groups that have one of these editions, by source. Raises ``BadInput`` if files cannot be written and for
    damaged Records."""
    from replicate.report import diff

    whole, written = request.whole(), []
    for columns, editions in _groups(whole.columns, kept):
        if trained is not None and not editions.items() & trained.items():
            continue
        printer = table_printer(whole, kept, editions, columns, "as-published", results)
        if printer is None:
            continue
        stem = _stem(whole, columns, editions)
        written.append(TableFiles(results / whole.paper.name / stem, whole, columns, editions))
        for form, suffix in FORMATS.items():
            _write(results, whole.paper, f"{stem}.{suffix}", printer(format=form))
        if whole.quick or all(column.stand_in for column in columns):
            continue
        rows = compared(whole, kept, columns, editions)
        for form in ("markdown", "csv"):
            _write(results, whole.paper, f"{stem}.verdicts.{FORMATS[form]}", diff.render(rows, form))
    return written


def write_claims(paper: Paper, kept: Store, results: Path) -> None:
    """Write what the paper claims, judged by its own numbers and by ours. Raises as :func:`write_tables`."""
    from replicate.report import claims

    if not paper.claims:
        return
    found = list(judged_claims(paper, kept, table=None, datasets=(), variant=None, selection="as-published"))
    for form in ("markdown", "csv"):
        told = claims.render(paper, found, form, selection="as-published", note="")
        _write(results, paper, f"claims.{FORMATS[form]}", told)


def written_before(paper: Paper, kept: Store, results: Path) -> list[TableFiles]:
    """The tables that the folder has files of."""
    found = []
    for request in _requests(paper, kept):
        for columns, editions in _groups(request.columns, kept):
            path = results / paper.name / _stem(request, columns, editions)
            if path.with_name(f"{path.name}.md").is_file():
                found.append(TableFiles(path, request, columns, editions))
    return found


def write_contents(paper: Paper, written: Sequence[TableFiles], kept: Store, results: Path) -> None:
    """Write the page that says what the other files are. Raises as :func:`write_tables`."""
    from replicate.report import contents

    told = [
        contents.Written(table.path.name, _read_as(table.request), compared(table.request, kept, table.columns, table.editions))
        for table in written
    ]
    _write(results, paper, "README.md", contents.render(paper, told))


def _read_as(request: Request) -> str:
    """Grid and variant, where they are not the table's own."""
    assert request.table is not None
    other = request.grid != request.table.grid
    return ", ".join([f"grid `{request.grid}`"] * other + [f"variant `{request.variant}`"] * bool(request.variant))


def _stem(request: Request, columns: Sequence[Column], editions: Mapping[str, str]) -> str:
    """Such as ``table1``, ``table1.digits``, ``table1.cifar10@0123456789ab.text``: what may not be mixed has its own name."""
    assert request.table is not None
    parts = [f"table{request.table.number}"]
    if request.grid != request.table.grid:
        parts.append(request.grid)
    stand_in = {column.data.source for column in columns if column.stand_in}
    for source in sorted({column.data.source for column in columns}):
        if source in stand_in:
            parts.append(source)
        elif editions[source] != "official":
            parts.append(f"{source}@{editions[source]}")
    if request.variant:
        parts.append(request.variant)
    if request.quick:
        parts.append("quick")
    return ".".join(parts)


def _requests(paper: Paper, kept: Store) -> Iterator[Request]:
    """Every table that has something of ours under its own grid, then under each other grid and variant that adds to it."""
    for table in paper.tables:
        if table.descriptive:
            continue
        whole = Request.of_table(paper, table)
        known = _recorded(whole, kept)
        yield whole
        every = {(s, e, key) for s in whole.sources for e in kept.editions(s) for key in kept.seeds(s, e)}
        alike = [name for name in paper.grids if name != table.grid and same_rows(paper, table, name)]
        for grid in (table.grid, *alike):
            for variant in (None, *(variant.name for variant in paper.variants)):
                if every <= known:
                    break
                try:
                    other = Request.of_table(paper, table, grid=grid, variant=variant)
                except Elsewhere:  # this variant moves nothing there
                    continue
                found = _recorded(other, kept)
                if found - known:  # else its rows are those of a table before, with gaps
                    known |= found
                    yield other


def _recorded(request: Request, kept: Store) -> set[tuple[str, str, str]]:
    """Source, edition and first 24 digits of the key of whatever has a Record among the request's cells."""
    found = set()
    for source in request.sources:
        for edition in kept.editions(source):
            there = kept.seeds(source, edition)
            keys = {programme.key(edition)[:24] for programme in request.programmes(source)}
            found |= {(source, edition, key) for key in keys if key in there}
    return found


def _groups(columns: Sequence[Column], kept: Store) -> Iterator[tuple[list[Column], dict[str, str]]]:
    """Columns that share a file, and the editions of their data. None mixes what may not be mixed, and none gets another name
    when more is trained: all official editions together, every other edition and every stand-in by itself."""
    found = {source: kept.editions(source) for source in dict.fromkeys(column.data.source for column in columns)}
    real = [column for column in columns if not column.stand_in]
    official = [column for column in real if "official" in found[column.data.source]]
    if official:
        yield official, {column.data.source: "official" for column in official}
    for source, editions in found.items():
        for group in (real, [column for column in columns if column.stand_in]):
            alone = [column for column in group if column.data.source == source]
            for edition in editions if alone else ():
                if alone[0].stand_in or edition != "official":
                    yield alone, {source: edition}


def _copy(paper: Paper, store: Store, results: Path) -> dict[str, list[int]]:
    """Copy Records and Measures of the paper's cells, byte for byte. Returns of each kind how many the store has, and how many
    of these the folder had not, or not so. Raises ``BadInput`` for a damaged Record before anything is copied."""
    counts = {"records": [0, 0], "measures": [0, 0]}
    files = {path: path.relative_to(store.root) for path in _files(paper, store)}
    for path, within in files.items():
        if within.parts[0] == "records":
            parse(path, path.read_bytes())
    for path, within in files.items():
        told, to, count = path.read_bytes(), results / paper.name / within, counts[within.parts[0]]
        count[0] += 1
        if not to.is_file() or to.read_bytes() != told:
            _write(results, paper, str(within), told)
            count[1] += 1
    return counts


def _files(paper: Paper, store: Store) -> Iterator[Path]:
    """Files of Records and Measures of whatever any grid and variant of the paper trains."""
    columns = [column for grid in paper.grids.values() for column in grid.columns]
    for source in dict.fromkeys(column.data.source for column in columns):
        for edition in store.editions(source):
            seeds, found = store.seeds(source, edition), set[str]()
            for programme in all_programmes(paper, (column for column in columns if column.data.source == source)):
                if len(found) == len(seeds):  # grids of thousands of cells need not be gone through
                    break
                key = programme.key(edition)
                for seed in seeds.get(key[:24], ()):
                    found.add(key[:24])
                    yield from store.files(source, edition, key, programme.keys(edition)[-1], seed, paper.measures)


def _write(results: Path, paper: Paper, name: str, told: str | bytes) -> Path:
    path = results / paper.name / name
    try:
        write_atomically(path, told.encode() if isinstance(told, str) else told)
    except OSError as error:
        raise BadInput(
            f"results {str(results)!r} cannot be written ({error.strerror}); name another folder with --results"
        ) from None
    return path
