"""The command line: the only room that sees all others.

A command is imported when it is called, so ``replicate --help`` costs little more than importing click; torch is imported
only by commands that train or measure speed, so ``replicate tables`` starts as fast as a reader of files.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

import replicate
from papers import PAPERS
from replicate.errors import BadInput

#: Every fixed command: the module of this package that has it, and what the list of commands says of it.
COMMANDS = {
    "across": ("report", "The same method on the same data in several papers."),
    "bench": ("bench", "Training speed against a plain script, in one run."),
    "checklist": ("report", "What a reproducibility checklist asks, from Records."),
    "claims": ("report", "What papers claim in prose: does it hold?"),
    "data": ("data", "What data is there, what is missing; download it."),
    "diff": ("report", "Replica, published number and verdict, cell by cell."),
    "figures": ("report", "Draw figures as published, from Records and Measures."),
    "lens": ("report", "One table under every selection, side by side."),
    "list": ("report", "Papers, tables, grids, methods, and what is done."),
    "measures": ("measures", "What a paper's analysis says of every finished run."),
    "page": ("report", "Write everything that Records say as one HTML page."),
    "plan": ("plan", "What a request costs: cells, epochs, time, disk."),
    "readings": ("report", "Other readings of a protocol beside the one followed."),
    "results": ("results", "Write tables, verdicts, claims and Records to results/."),
    "tables": ("report", "Print tables from Records, in the published layout."),
    "why": ("report", "Explain one number of a table."),
}


class Commands(click.Group):
    """The fixed commands, and one for each paper; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name.replace("_", "-") for name in PAPERS), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.replace("-", "_") in PAPERS:
            from replicate.cli.run import run_command

            return run_command(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"replicate.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise BadInput(f"command {args[0]!r} is unknown; allowed: {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        papers = [(name.replace("_", "-"), f"Train the tables of {name.replace('_', '-')}.") for name in PAPERS]
        with formatter.section("Commands"):
            formatter.write_dl([*papers, *((name, told) for name, (_, told) in COMMANDS.items())])


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(replicate.__version__, prog_name="replicate")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train long-tailed recognition papers again, by their own protocols, and print their tables beside the published numbers.

    Options choose which cells run, where, and where results go. None changes a protocol.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _told(error: click.ClickException) -> str:
    """What click says, in one line, and what is allowed or where that stands if it does not say."""
    told, context = error.format_message(), getattr(error, "ctx", None)
    if context is None or (isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)):
        return told
    told, command = told.rstrip("."), context.command
    if isinstance(error, click.NoSuchOption):
        options = (parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option))
        return f"{told}; {context.command_path} has: {', '.join(options)}"
    if isinstance(command, click.Group):
        return f"{told}; {context.command_path} has: {', '.join(command.list_commands(context))}"
    return f"{told}; see {context.command_path} --help"


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    # Before torch loads its OpenMP. By default threads that wait for each other spin for long, and one busy neighbour on the
    # machine makes a step up to eight times as slow. Spinning briefly costs nothing measurable on an idle machine and keeps
    # most of the share that a loaded one leaves. It changes no number.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except BadInput as error:
        click.echo(f"replicate: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"replicate: {_told(error)}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else what is left to print fails once more at the end
        click.echo(f"replicate: output cannot be written ({error.strerror}); free space there, or send it elsewhere", err=True)
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nreplicate: stopped", err=True)
        sys.exit(130)
