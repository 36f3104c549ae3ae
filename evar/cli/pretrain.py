"""`evar pretrain`: weights of your own, from any folder of audio."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from evar.cli.options import Option, data_option, device_option, tasks_dir_option, with_options
from evar.errors import EvarError, unknown

SWITCHES = ("mixup", "crop", "crop_freq", "crop_time", "fader", "noise", "norm", "bank")
NORMS = ("views", "batch", "none")
VERBS = {"byol": "byola", "cola": "cola"}  # a preset's objective -> METHOD on the command line


def _show_presets(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from evar.pretraining.presets import PRESETS

        click.echo(presets_text(PRESETS))
        ctx.exit()


@click.command()
@click.argument("method", metavar="byola|cola")
@with_options(
    click.option(
        "--audio", multiple=True, metavar="DIR|CSV", help="Folder tree of audio, or a manifest (column: file)."
    ),
    click.option("--preset", metavar="NAME", help="Recipe; --list-presets shows them. [default: v2, or cola]"),
    click.option(
        "--list-presets",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_presets,
        help="Show the recipes and stop.",
    ),
    click.option("--epochs", type=float, metavar="N", help="Passes over the corpus (a second of each clip at a time)."),
    click.option("--steps", type=click.IntRange(1), metavar="N", help="Steps instead of epochs."),
    click.option("--batch", type=click.IntRange(2), metavar="N", help="Clips per step, over all processes."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), metavar="X", help="Learning rate of Adam."),
    click.option("--schedule", type=click.Choice(["constant", "cosine"]), help="Of the learning rate."),
    click.option("--warmup", type=click.IntRange(0), metavar="N", help="Steps of linear rise."),
    click.option("--tau", type=click.FloatRange(0, 1), metavar="X", help="Decay of BYOL's moving average."),
    click.option("--augment", metavar="K=V,...", help="Switches: mixup=0.4|off, crop=on|off, crop_freq=0.6:1.5, ..."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    device_option,
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True),
    click.option(
        "-o",
        "--out",
        "out",
        cls=Option,
        unseen=("--output",),
        default="",
        metavar="DIR",
        help="Run folder. [default: ENCODER-sSEED in $EVAR_PRETRAINED or pretrained]",
    ),
    click.option("--resume", is_flag=True, help="Go on from the checkpoint in the run folder."),
    click.option(
        "--max-hours",
        type=click.FloatRange(0, min_open=True),
        metavar="H",
        help="Train this long now, then stop with weights; --resume goes on.",
    ),
    click.option(
        "--checkpoint-every",
        type=click.IntRange(1),
        metavar="N",
        help="Steps between checkpoints. [default: 10 minutes]",
    ),
    click.option("--skip-licence", multiple=True, metavar="TEXT", help="Leave out manifest rows under such a licence."),
    click.option(
        "--emphasis",
        multiple=True,
        metavar="TEXT=X",
        help="Draw files with TEXT in their name X times as often; repeatable.",
    ),
    click.option("--licence", default="", metavar="TEXT", help="Licence note for the weights file."),
    click.option(
        "--trained-on", multiple=True, metavar="NAME", help="Corpus name, for the `contaminated` flag of rows."
    ),
    click.option("--half", is_flag=True, help="Write matrices as float16 (half the file; float32 when loaded)."),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events."),
    click.option(
        "--probe-every", type=click.IntRange(0), default=0, metavar="N", help="Score the weights every N steps."
    ),
    click.option("--probe-tasks", metavar="NAMES", help="Tasks to score them on."),
    click.option(
        "--probe-split",
        type=click.Choice(["inner", "test"]),
        default="inner",
        show_default=True,
        help="inner: without the test clips, so recipes may be chosen by it.",
    ),
    data_option,
    tasks_dir_option,
    click.option(
        "--embeddings", default="embeddings", show_default=True, metavar="DIR", help="Where waveforms are kept."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and the result."),
)
def pretrain_command(
    method: str,
    audio: tuple[str, ...],
    preset: str | None,
    quiet: bool,
    augment: str | None,
    emphasis: tuple[str, ...],
    device: str,
    precision: str,
    probe_every: int,
    probe_tasks: str | None,
    probe_split: str,
    data: tuple[str, ...],
    tasks_dir: str | None,
    embeddings: str,
    **given: Any,
) -> int:
    """Train METHOD (byola or cola) on audio without labels; writes weights that `evar run` takes.

    Any folder tree of audio in any rate works. Several GPUs or nodes: start it with torchrun. Ctrl-C and SIGTERM stop it
    after the step in hand, with a checkpoint and weights (exit code 130 or 143); --resume continues to the same weights.

    \b
    Examples:
      evar pretrain byola --audio ~/sounds --preset v1-512 --max-hours 1
      evar run byola-v1-512@byola-v1-512-s0 esc50 --data ~/datasets
      evar pretrain byola --audio ~/sounds --preset v2 --epochs 100 --probe-every 500 --probe-tasks esc50 --data ~/datasets
      evar pretrain byola --audio ~/sounds --augment mixup=off --out pretrained/without-mixup
      evar pretrain byola --list-presets
      torchrun --nproc-per-node 8 -m evar pretrain byola --audio ~/AudioSet --device cuda
    """
    with _one_line_per_machine():
        chosen = _preset_of(method, preset)
        if not audio:
            raise EvarError("evar pretrain needs audio: --audio DIR, or --audio MANIFEST.csv")
        if bool(probe_every) != bool(probe_tasks):
            raise EvarError("--probe-every N and --probe-tasks NAMES go together: give both or neither")
        switches, factors = parse_switches(augment), parse_emphasis(emphasis)
        from evar.cli.progress import TrainingBar
        from evar.compute import resolve_device
        from evar.embed import keep_freed_memory

        keep_freed_memory()
        device = resolve_device(device)
        from evar.pretraining.pretrain import Options, pretrain, run_folder

        if precision == "auto":
            precision = "bf16" if device.startswith("cuda") else "fp32"
        options = Options(
            audio=audio,
            preset=chosen.name,
            augment=switches,
            emphasis=factors,
            device=device,
            precision=precision,
            cache=str(Path(embeddings) / "waveforms"),
            **given,
        )
        rank = int(os.environ.get("RANK", "0"))
        curve = None
        if probe_every and rank == 0:
            from evar.cli.probe_curve import Curve

            inner = probe_split == "inner"
            curve = Curve(
                run_folder(options), chosen.encoder, probe_tasks, data, tasks_dir, embeddings, device, inner=inner
            )

    def probe(step: int, weights: Path) -> None:
        try:
            bar.say(curve.score(step, weights, fresh=not options.resume))
        except EvarError as error:  # hours of training are worth more than one point of a curve
            bar.say(f"warning: the weights of step {step} could not be scored: {error}")

    with TrainingBar(hidden=quiet or rank > 0) as bar:
        trained = pretrain(
            options,
            say=bar.say,
            decoding=bar.decoding,
            on_step=bar.step,
            probe_every=probe_every,
            on_probe=probe if probe_every else None,
        )
    if rank == 0:
        _tell(trained, chosen.encoder)
    return 128 + trained.outcome.signal if trained.outcome.signal else 0


def _preset_of(method: str, name: str | None) -> Any:
    from evar.pretraining.presets import get_preset

    if method not in VERBS.values():
        raise unknown(
            "method", method, VERBS.values(), "(--preset chooses its recipe: evar pretrain byola --preset v2)"
        )
    preset = get_preset(name or {"byola": "v2", "cola": "cola"}[method])
    kind = VERBS[preset.method]
    if kind != method:
        raise EvarError(f"preset {preset.name} is one of {kind}: evar pretrain {kind} --preset {preset.name}")
    return preset


@contextlib.contextmanager
def _one_line_per_machine() -> Iterator[None]:
    """What is wrong with the words is wrong in every process that `torchrun` started: the first one says it."""
    try:
        yield
    except EvarError as error:
        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            sys.exit(error.exit_code)
        raise


def _tell(trained: Any, encoder: str) -> None:
    """The last lines: how it ended, where the weights are, what to do next."""
    outcome = trained.outcome
    how = {"finished": "finished", "time": "stopped by --max-hours", "interrupted": "interrupted"}[outcome.reason]
    if outcome.first >= outcome.step:
        how = "nothing to do: finished"
    click.echo(f"{how} after {outcome.step} steps, {outcome.seconds / 3600:.2f} h, loss {outcome.loss:.4f}")
    click.echo(f"{trained.weights}\ntry: evar run {encoder}@{trained.weights} esc50 --data DIR")
    if outcome.reason != "finished":
        click.echo("go on with: the same command and --resume")


def parse_switches(text: str | None) -> dict[str, Any]:
    """`mixup=off,crop_freq=0.6:1.5` -> keywords of `Augmentation`; EvarError for anything else."""
    switches: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.strip().partition("=")
        if key not in SWITCHES:
            raise unknown("augmentation switch", key, SWITCHES, "(as in --augment mixup=off,fader=1)")
        if not equals:
            raise EvarError(f"--augment {key}: expected a value, as in --augment mixup=off,fader=1")
        switches[key] = _switch(key, value)
    return switches


def parse_emphasis(words: tuple[str, ...]) -> dict[str, float]:
    """`("speech=2.5",)` -> {"speech": 2.5}; EvarError for anything else."""
    factors = {}
    for word in words:
        text, _, factor = word.rpartition("=")
        try:
            factors[text] = float(factor)
        except ValueError:
            factors[text] = 0.0
        if not text or not 0 < factors[text] <= 100:
            raise EvarError(f"--emphasis {word}: expected TEXT=X with X above 0 and at most 100, such as speech=2.5")
    return factors


def _switch(key: str, value: str) -> Any:
    if key == "norm" and value in NORMS:
        return value
    if key == "crop" and value in ("on", "off"):
        return value == "on"
    try:
        if key in ("crop_freq", "crop_time"):
            low, high = map(float, value.split(":"))
            if 0 < low <= high <= 10:
                return [low, high]
        elif key == "bank" and int(value) > 0:
            return int(value)
        elif key in ("mixup", "fader", "noise"):
            strength = 0.0 if value == "off" else float(value)
            if 0 <= strength <= (10 if key == "fader" else 1):
                return strength
    except ValueError:
        pass
    expected = {"norm": "|".join(NORMS), "crop": "on|off", "bank": "entries", "fader": "0 to 10"}
    wanted = expected.get(
        key, "LOW:HIGH, such as 0.6:1.5" if key.startswith("crop_") else "a number from 0 to 1, or off"
    )
    raise EvarError(f"--augment {key}={value}: expected {wanted}")


def presets_text(presets: Any) -> str:
    """The recipes as a table."""
    from evar.cli.options import table

    rows = [
        [
            p.name,
            VERBS[p.method],
            p.encoder,
            f"{p.steps} steps" if p.steps else f"{p.epochs:g} epochs",
            str(p.batch),
            f"{p.lr:g}",
            p.corpus,
            p.expect,
        ]
        for p in presets.values()
    ]
    return table(rows, ["preset", "method", "encoder", "length", "batch", "lr", "for", "expect"], {3, 4, 5})
