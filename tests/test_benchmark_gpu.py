"""The script that measures everything on a GPU, at a tiny size on a CPU: where there is no GPU it must be known to work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ["equal bits", "exactness", "captures", "side by side", "against scripts", "precisions"]


def failures(told, name=""):
    """Paths under which something is told as failed."""
    if not isinstance(told, dict):
        return []
    return (
        [f"{name}: {told['failed']}"] if "failed" in told else [f for key, value in told.items() for f in failures(value, key)]
    )


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_runs_at_a_tiny_size_on_a_cpu(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--smoke", "--out", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert [name for name in told if name in PARTS] == PARTS
    assert [line.partition(":")[0] for line in failures(told)] == ["tf32", "float16"]  # a CPU has neither
    assert all(not found for found in told["equal bits"].values())
    assert all(case["ratio"] <= 2 for case in told["exactness"].values())
    assert "## side by side" in (tmp_path / "gpu.md").read_text() and told["data"].endswith("smoke run")
