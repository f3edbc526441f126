"""One measurement, in a process of its own.

The task comes as JSON, the answer is the last line of the output. Between set-up and clock it says ``ready`` and waits for a
line, so that two of them can start together.
"""

from __future__ import annotations

import json
import sys

import torch

from replicate.bench.task import Task
from replicate.launch import memory


def ready() -> None:
    """Wait for the word to start."""
    print("ready", flush=True)
    sys.stdin.readline()


def main() -> None:
    """Measure what the first argument says."""
    task = Task(**json.loads(sys.argv[1]))
    device = torch.device(task.device)
    torch.set_num_threads(task.threads)
    told: dict[str, float]
    if task.what == "limits":
        from replicate.bench import limits

        ready()
        told = limits.measured(device)
    else:
        if task.what == "plain":
            from replicate.bench.plain import measured
        else:
            from replicate.bench.engine import measured
        told = {"seconds": measured(task, ready)}
        told["peak_bytes"] = memory.peak()
        if device.type == "cuda":
            told["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
