"""The benchmarks, one module each, in the order of the report: each has a `TITLE`; `run(bench)` returns its rows."""

from __future__ import annotations

NAMES = (
    "short_trials",
    "faults",
    "long_trials",
    "fresh_interpreter",
    "activation",
    "cold_spawn",
    "whole_command",
    "ping",
    "live_agents",
    "kill_tree",
)
