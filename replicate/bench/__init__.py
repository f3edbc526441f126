"""Training speed: the engine against a plain script, and both against the machine's own limits, side by side in one run.

:mod:`~replicate.bench.compare` alternates measurements, each in a process of its own (:mod:`replicate.bench.__main__`):
:mod:`~replicate.bench.plain` is the script that people write, :mod:`~replicate.bench.engine` the engine,
:mod:`~replicate.bench.limits` what the machine can do, :mod:`~replicate.bench.work` what a step has to do.
"""
