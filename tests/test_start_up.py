"""What is loaded before a command does its work. Modules are counted, not seconds."""

import subprocess
import sys

import click
import pytest

from papers import PAPERS
from replicate.cli import COMMANDS, cli

HEAVY = {"torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "tabulate", "jinja2", "PIL"}
#: Of the framework's own modules those that take long and that a step does without.
COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"}


def loaded(code, *arguments):
    """Names of the modules that are there after ``code``, which may end the process."""
    program = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300, check=True)
    return set(done.stderr.splitlines()[-1].split()), done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_the_command_itself_loads_click_and_little_else(arguments):
    modules, out = loaded("from replicate.cli import main; main()", *arguments)
    assert "Commands:" in out or "version" in out
    ours = {name for name in modules if name.partition(".")[0] in ("replicate", "papers")}
    assert ours == {"replicate", "replicate.cli", "replicate.errors", "papers"}
    clicks = loaded("import click")[0]
    assert not modules & HEAVY
    # Beside click: what formats its help, at most, and the codecs of the process.
    assert len(modules - clicks - ours) < 12, sorted(modules - clicks - ours)


@pytest.mark.parametrize("command", ["list", "tables", "diff"])
def test_commands_that_read_records_load_no_framework(command, tmp_path):
    where = ("--store", str(tmp_path), "--results", str(tmp_path))
    modules, _ = loaded(
        "from replicate.cli import main; main()", *([command, "wb"] if command != "list" else [command]), *where
    )
    assert not modules & {"torch", "torchvision", "scipy", "sklearn", "matplotlib", "jinja2"}
    assert ("replicate.grid" in modules) and ("replicate.launch.local" not in modules)


def test_every_command_is_where_the_list_of_commands_says():
    context = click.Context(cli)
    names = cli.list_commands(context)
    assert names == [*(name.replace("_", "-") for name in PAPERS), *COMMANDS] and list(COMMANDS) == sorted(COMMANDS)
    for name in names:
        command = cli.get_command(context, name)
        assert command is not None and command.name == name
    assert cli.get_command(context, "other") is None
    out = loaded("from replicate.cli import main; main()", "--help")[1]
    for name, (_, told) in COMMANDS.items():
        assert f"  {name.ljust(13)}  {told}\n" in out  # each on one line of 80 characters


FIRST_EPOCHS = """
    import importlib, torch
    from papers import PAPERS
    from replicate.data.longtail import split
    from replicate.data.sources import load
    from replicate.engine import loop
    from replicate.grid import cells
    from replicate.launch import local
    for name in PAPERS:
        paper = importlib.import_module("papers." + name).PAPER
        column = next(c for grid in paper.grids.values() for c in grid.columns if c.stand_in and c.data.source == "digits")
        cell = next(cell for grid in paper.grids for cell in cells(paper, grid, columns=[column], quick=True))
        data = loop.DeviceData(split(load("digits", None), column.data), cell.programme, torch.device("cpu"))
        state = loop.start(cell.programme, 0, data.device)
        loop.train_epoch(state, cell.programme.epoch(1), data, 0)
        assert state.epoch == 1
"""


def test_a_first_epoch_of_digits_loads_the_framework_and_no_compiler():
    modules, _ = loaded(FIRST_EPOCHS.strip())
    assert "torch" in modules
    assert not modules & (HEAVY - {"torch", "numpy", "PIL"} | COMPILER)
