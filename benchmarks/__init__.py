"""What docs/benchmarks.md and docs/gpu.md state, measured again: `python -m
benchmarks.workers`, `python -m benchmarks.gpu`.
"""
