"""`clove demo drug-discovery`: real experiments with three faults in, standalone beside CloveOS."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import clove_column, dataset, environment, published, report, standalone_column, table, victims
from .bystanders import Bystanders
from .column import Column
from .present import Grid, Progress
from .standalone_column import Work
from .summary import Summary

# How long the suggested victim waits for the audience's hand before the demo sends the kill itself.
PRESENT_GRACE_S = 30.0
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SMALLEST_BYTES = 384 << 20


def size(text: str) -> int:
    """`512m`, `1g`, or plain bytes."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a size: write 512m or 1g")
    count = int(match.group(1)) * _UNITS[match.group(2)]
    if count < _SMALLEST_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text} is too little: scikit-learn and the data take {_SMALLEST_BYTES >> 20}m"
        )
    return count


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 1")
    return int(text)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="clove demo drug-discovery",
        description="Run 48 real experiments, break three on purpose, and compare with standalone Python.",
        epilog="It takes about four minutes, and one minute more the first time.",
    )
    parser.add_argument(
        "--targets", default="", metavar="all|NAME,...", help="targets of MoleculeACE (default: 12 of 30)"
    )
    parser.add_argument("--shuffle-labels", action="store_true", help="the control: nothing may be learnt")
    parser.add_argument("--crash", metavar="N", help="the experiment that segfaults: number from 1, or name")
    parser.add_argument("--leak", metavar="N", help="the experiment that leaks memory")
    parser.add_argument("--kill", metavar="N", help="the experiment that is killed by hand")
    parser.add_argument("--seed", type=int, help="seed that the victims are drawn from (default: random, printed)")
    parser.add_argument("--jobs", type=positive, help="experiments at a time (default: one a core)")
    parser.add_argument(
        "--memory", type=size, default=size("1g"), metavar="SIZE", help="cap of each process (default: 1g)"
    )
    parser.add_argument("--skip-standalone", action="store_true", help="CloveOS only, nothing to compare with")
    parser.add_argument("--present", action="store_true", help="live grid; the audience kills one")
    parser.add_argument("--report", type=Path, metavar="PATH", help="where the HTML report goes; a picture beside it")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object")
    return parser.parse_args(given)


def choose_targets(wanted: str, wheel: Path) -> list[str]:
    """The targets to run; an unknown name is refused with those there are."""
    there = dataset.target_names(str(wheel))
    if not wanted:
        return list(dataset.DEFAULT_TARGETS)
    if wanted == "all":
        return there
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in there]
    if unknown or not chosen:
        raise victims.BadVictim(f"there is no target {', '.join(unknown) or wanted!r}; there are: {', '.join(there)}")
    return chosen


def standalone_columns(
    harmless: list[dict[str, Any]],
    faulty: list[dict[str, Any]],
    work: Work,
    chosen: victims.Victims,
    progress: Progress,
) -> list[Column]:
    """The three columns without CloveOS."""
    columns = []
    plan = (
        ("pool, no faults", "pool", harmless, None, "about {} s"),
        ("sequential", "sequential", faulty, chosen, "until it dies"),
        ("ProcessPool", "pool", faulty, chosen, "until it breaks"),
    )
    for name, mode, configs, hurt, until in plan:
        takes = until.format(round(work.cpu_s / min(work.jobs, work.cores)))
        progress.say(f"{name}: {len(configs)} experiments, {takes}")
        column = standalone_column.run(name, mode, configs, work, hurt, progress.count)
        progress.say(f"  {column.completed} of {column.total} in {column.wall_s:.1f} s: {column.what_happened}")
        columns.append(column)
    return columns


def run(options: argparse.Namespace) -> Summary:
    """Everything, in order."""
    progress = Progress(())
    made = environment.ensure(progress.say)
    targets = choose_targets(options.targets, made.wheel)
    configs: list[dict[str, Any]] = [
        {"target": target, "model": model, "shuffle": options.shuffle_labels}
        for target in targets
        for model in dataset.MODELS
    ]
    names = [f"{config['target']}-{config['model']}" for config in configs]
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    # The forests take longest and so begin first: while the victim waits for the audience, others run.
    early = [n for n, config in enumerate(configs) if options.present and config["model"] == "RF"]
    chosen = victims.choose(names, seed, options.crash, options.leak, options.kill, early)
    told = ", ".join(f"{kind} #{position + 1} {names[position]}" for kind, position in chosen._asdict().items())
    progress.say(f"victims (--seed {seed}): {told}")
    cores = len(os.sched_getaffinity(0))
    work = Work(
        names,
        Path(__file__).with_name("experiment.py"),
        made.python,
        {
            "DRUG_DISCOVERY_WHEEL": str(made.wheel),
            "DRUG_DISCOVERY_FEATURES": str(made.features),
            "DRUG_DISCOVERY_TARGETS": ",".join(targets),
        },
        options.memory,
        options.jobs or cores,
        cores,
        dataset.expected_cpu_s(str(made.wheel), targets),
    )
    faulty = victims.with_faults(configs, chosen)
    columns: list[Column] = []
    if not options.skip_standalone:
        columns = standalone_columns(victims.with_faults(configs, None), faulty, work, chosen, progress)
    bystanders = Bystanders()
    takes = round(1.05 * work.cpu_s / min(work.jobs, cores))
    progress.say(f"CloveOS: {len(configs)} experiments, about {takes} s")
    if options.present:
        # The grace must outlast the demo's own kill, or a slow machine would find the victim already at work.
        patient = victims.with_faults(configs, chosen, linger_s=PRESENT_GRACE_S + 5)
        grid = Grid(names, configs, chosen.kill, PRESENT_GRACE_S)
        ours = clove_column.run(
            patient, work, chosen, seed, grid, bystanders, progress.say, kill_after_s=PRESENT_GRACE_S
        )
    else:
        ours = clove_column.run(faulty, work, chosen, seed, Progress(names), bystanders, progress.say)
    columns.append(ours)
    return Summary(
        configs=configs,
        names=names,
        victims=chosen,
        seed=seed,
        shuffled=options.shuffle_labels,
        memory_bytes=options.memory,
        jobs=work.jobs,
        figures={} if options.shuffle_labels else published.read(),
        columns=columns,
        reference=columns[0] if len(columns) > 1 else None,
        ours=ours,
        bystanders=bystanders.lines,
        disturbed=bystanders.disturbed,
    )


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(given: Sequence[str] | None = None) -> int:
    """0: all went as promised; 1: it didn't; 2: wrong command line; 125: couldn't be tried; 130: Ctrl-C."""
    options = arguments(given)
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # All three must clean up: the columns run in groups of their own, which no terminal's signal reaches.
        signal.signal(ending, _interrupted)
    try:
        summary = run(options)
        page = options.report or environment.demo_home() / "report.html"
        picture = report.write(summary, page)
    except victims.BadVictim as error:
        print(f"clove: demo: {error}", file=sys.stderr)
        return 2
    except environment.EnvironmentFailed as error:
        print(f"clove: demo: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        print("\nclove: demo: interrupted; nothing of it is left running", file=sys.stderr)
        return 130
    print(f"report: {page}\npicture: {picture}", file=sys.stderr)
    if options.json:
        # json.dumps leaves DEL as it is.
        print(json.dumps(summary.as_json()).replace("\x7f", "\\u007f"))
    else:
        print(table.comparison(summary.columns), end="\n\n")
        print(table.scores(summary), end="\n\n")
        noise = summary.noise()
        for line in (*([noise] if noise else ()), *summary.bystanders, *report.killers(summary)):
            print(line)
        print(summary.last_line())
    return 0 if summary.passed() else 1


if __name__ == "__main__":
    sys.exit(main())
