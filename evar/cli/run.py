"""`evar run`: the main job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from evar.cli.options import (
    Option,
    compile_option,
    data_option,
    devices_option,
    embeddings_option,
    format_option,
    mini_option,
    precision_option,
    print_json,
    results_option,
    table,
    tasks_dir_option,
    with_options,
)
from evar.errors import EvarError, nearest


def _misplaced(ctx: click.Context, option: click.Parameter, given: str | None) -> None:
    if given:
        raise click.UsageError("ENCODERS and TASKS stand without such a word: evar run logmel esc50", ctx)


@click.command(context_settings={"allow_extra_args": True})
@click.argument("encoders")
@click.argument("tasks", required=False)
@with_options(
    click.option(
        "--encoders",
        "--encoder",
        "--tasks",
        "--task",
        "misplaced",
        hidden=True,
        expose_value=False,
        callback=_misplaced,
    ),
    data_option,
    mini_option,
    tasks_dir_option,
    click.option("--weights", metavar="FILE", help="Checkpoint of a single encoder (same as NAME@FILE)."),
    devices_option,
    precision_option,
    compile_option,
    click.option(
        "--probe",
        "probe",
        cls=Option,
        unseen=("--protocol",),
        metavar="NAMES",
        help="Protocols: fair (default), paper, knn, mlp, or a YAML file.",
    ),
    click.option("--seeds", metavar="N,N", help="Seeds instead of the protocol's own."),
    click.option(
        "--layers", metavar="L,L+L|all", help="Layers, or fusions of them (3+6), each in a row of its own, in one pass."
    ),
    click.option(
        "--pooling", metavar="NAMES", help="mean, max, std, mean+max, mean_std, cls instead of the encoder's default."
    ),
    click.option("--norm", metavar="auto|weights|task", help="Whose log-mel statistics. auto: as the protocol says."),
    click.option("--duration", metavar="card|native", help="Cut or pad clips to the card's seconds (default), or not."),
    click.option("--batch", type=int, metavar="N", help="Clips per batch instead of the encoder's own choice."),
    results_option,
    embeddings_option,
    click.option("--train-fraction", type=float, metavar="F", help="Train on a stratified, seeded part of the clips."),
    click.option("--shots", type=int, metavar="N", help="Train on N clips per class."),
    click.option("--limit", type=int, metavar="N", help="Use a stratified subset of N clips (marked in the row)."),
    click.option("--partial", is_flag=True, help="Accept a folder that lacks official clips (marked in the row)."),
    click.option("--skip-bad", is_flag=True, help="Skip clips that cannot be decoded (counted in the row)."),
    click.option(
        "--engine",
        default="local",
        show_default=True,
        metavar="local|ray|submitit",
        help="Where the cells are computed.",
    ),
    click.option(
        "--workers", type=int, metavar="N", help="Encoder × task jobs at a time, each in a process of its own."
    ),
    click.option(
        "-E",
        "--engine-option",
        multiple=True,
        metavar="KEY=VALUE",
        help="For the engine, as slurm_partition=gpu; repeatable.",
    ),
    click.option("--retries", type=int, metavar="N", help="How often a job whose process died is started again (3)."),
    click.option("--dry-run", is_flag=True, help="Say what would be done: cells, clips, hours, disk, time."),
    format_option,
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and the result."),
)
@click.pass_context
def run_command(
    ctx: click.Context,
    encoders: str,
    tasks: str | None,
    dry_run: bool,
    output: str,
    verbose: int,
    quiet: bool,
    engine_option: tuple[str, ...],
    **options: Any,
) -> None:
    """Score ENCODERS on TASKS and write the leaderboard.

    ENCODERS and TASKS are comma lists; globs (`byola-v1-*`), suites (`paper9`) and card files (`mine.yaml`) work too.
    Or give one YAML file that holds the whole command. What is measured already is not measured again.

    \b
    Examples:
      evar run logmel,random:byola-v2 esc50 --mini
      evar run byola-v2@AudioNTT2022.pth esc50,gtzan --data ~/datasets --probe fair,paper
      evar run cnn14@Cnn14.pth esc50 --layers all,3+6 --data ~/datasets
      evar run mine=py:my_package.models:Mine,logmel paper9 --data ~/datasets --dry-run
      evar run 'random:*,byola' paper9 --data ~/datasets --workers 4
      evar run grid.yaml --engine submitit -E slurm_partition=gpu -E timeout_min=120
    """
    from evar import engines
    from evar.cli.progress import Bars

    if tasks is None:
        if not encoders.endswith((".yaml", ".yml")):
            raise click.UsageError("missing TASKS: evar run ENCODERS TASKS, or evar run GRID.yaml", ctx)
        encoders, tasks, stated = read_grid(Path(encoders))
        given = {name for name in options if ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
        options = options | {name: value for name, value in stated.items() if name not in given}
    elif ctx.args:
        more = ",".join([tasks, *ctx.args])
        raise click.UsageError(
            f"one word too many: several tasks are one comma list, as in evar run {encoders} {more}", ctx
        )
    elif _are_swapped(encoders, tasks, options["tasks_dir"]):
        raise click.UsageError(f"the encoders come first: evar run {tasks} {encoders}", ctx)
    options["probe"] = options["probe"] or "fair"
    place = {name: options.pop(name) for name in PLACE if options.get(name) is not None}
    options = {name: value for name, value in options.items() if name not in PLACE}
    if engine_option:
        place["engine_options"] = key_values(engine_option)
    reporter = Bars(-1 if quiet else verbose)
    if dry_run:
        return print_plan(engines.estimate(encoders, tasks, reporter=reporter, **place, **options), output)
    rows = engines.run(encoders, tasks, reporter=reporter, **place, **options)
    echo_command(encoders, tasks, options, Path(options["results"]))
    if output == "json":
        return print_json(rows.to_dict("records"))
    from evar.leaderboard import format_leaderboard

    click.echo(format_leaderboard(rows))
    if not quiet:
        folder = Path(options["results"])
        click.echo(
            f"\n{folder / 'leaderboard.csv'}  (per fold and seed: {folder / 'runs.csv'}, per clip: {folder / 'predictions'}/)"
        )


PLACE = ("engine", "workers", "engine_options", "retries")
"""Where a run is computed: options that change no number."""


def _are_swapped(encoders: str, tasks: str, tasks_dir: str | None) -> bool:
    from evar.datasets import list_cards
    from evar.encoders.registry import list_encoders

    first, second = ({word.strip() for word in words.split(",")} for words in (encoders, tasks))
    return second <= set(list_encoders()) and first <= set(list_cards(tasks_dir))


def key_values(words: Sequence[str]) -> dict[str, str]:
    """`["a=1", "b=c"]` -> {"a": "1", "b": "c"}; EvarError for a word without one of them."""
    pairs = [word.partition("=") for word in words]
    for key, equals, value in pairs:
        if not key or not value:
            raise EvarError(f"--engine-option: expected KEY=VALUE, found {key + equals + value!r}")
        if sum(key == other for other, _, _ in pairs) > 1:
            raise EvarError(f"--engine-option: {key} is given twice")
    return {key: value for key, _, value in pairs}


def read_grid(path: Path) -> tuple[list, list, dict[str, Any]]:
    """A run as a file: (encoders, tasks, options). Keys are `encoders`, `tasks` and the options of `evar run`.

    Raises EvarError for a file that cannot be read, an unknown key or a missing one.
    """
    from evar.cells import Settings
    from evar.yaml_files import read_yaml

    stated = read_yaml(path)
    if not isinstance(stated, dict):
        raise EvarError(f"{path}: expected the keys 'encoders' and 'tasks', found {type(stated).__name__}")
    known = {field.name for field in fields(Settings)} | {"encoders", "tasks", *PLACE}
    options = {str(key).replace("-", "_"): value for key, value in stated.items()}
    for key in options:
        if key not in known:
            near = nearest(key, known)
            raise EvarError(f"{path}: unknown key {key!r}" + (f"; did you mean {near!r}?" if near else ""))
    for key in ("encoders", "tasks"):
        if not options.get(key):
            raise EvarError(f"{path}: the key {key!r} is missing")
        words = options[key] if isinstance(options[key], list) else [options[key]]
        if not all(isinstance(word, str) for word in words):
            raise EvarError(f"{path}: {key}: expected a name or a list of names, found {options[key]!r}")
    return options.pop("encoders"), options.pop("tasks"), options


def echo_command(encoders: Any, tasks: Any, options: dict[str, Any], results: Path) -> None:
    """Keep the whole command as a file that `evar run` takes, in `RESULTS/commands/`, named by its content."""
    import yaml

    from evar.cells import split_encoders, split_tasks
    from evar.files import atomic_write, digest

    command = {"encoders": split_encoders(encoders), "tasks": split_tasks(tasks)}
    command |= {
        name: list(v) if isinstance(v, tuple) else v for name, v in options.items() if v not in (None, False, ())
    }
    path = results / "commands" / f"{digest(command)[:12]}.yaml"
    if not path.exists():
        atomic_write(path, yaml.safe_dump(command, sort_keys=False, allow_unicode=True))


def print_plan(cells: list[dict], output: str) -> None:
    """Print what `--dry-run` found."""
    from evar.files import human_bytes

    if output == "json":
        return print_json(cells)
    rows = [
        [
            cell["encoder"],
            cell["task"],
            cell["protocol"],
            f"{cell['clips']:,}",
            f"{cell['hours']:.2f}",
            human_bytes(cell["bytes_waveforms"]),
            human_bytes(cell["bytes_embeddings"]),
            _duration(cell["seconds_encode"]),
            "" if cell["seconds_probe"] is None else _duration(cell["seconds_probe"]),
        ]
        for cell in cells
    ]
    header = ["encoder", "task", "protocol", "clips", "hours", "waveforms", "embeddings", "encode", "probe"]
    click.echo(table(rows, header, right={3, 4, 5, 6, 7, 8}))
    waveforms = {cell["task"]: cell["bytes_waveforms"] for cell in cells}
    encoded = {(cell["encoder"], cell["task"]): cell for cell in cells}
    disk = sum(waveforms.values()) + sum(cell["bytes_embeddings"] for cell in encoded.values())
    seconds = sum(cell["seconds_encode"] for cell in encoded.values())
    probing = [cell["seconds_probe"] for cell in cells if cell["seconds_probe"] is not None]
    click.echo(
        f"\n{len(cells)} cells, at most {human_bytes(disk)} of disk and about {_duration(seconds)} of encoding on this machine;"
        " what is stored already costs nothing"
    )
    if probing:
        click.echo(f"logistic regression: some {_duration(sum(probing))}, to a factor of three")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
