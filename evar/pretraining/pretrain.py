"""One pre-training from audio to a weights file: what `evar pretrain` calls, and a script may."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import evar
from evar.encoders.registry import load_encoder
from evar.encoders.weights import STORE, write_weights
from evar.errors import EvarError
from evar.extras import require
from evar.files import check_writable, make_folder
from evar.pretraining.checkpoint import FILE
from evar.pretraining.corpus import Corpus, open_corpus
from evar.pretraining.method import Method
from evar.pretraining.norms import world_size
from evar.pretraining.presets import Preset, get_preset
from evar.pretraining.processes import check_same, processes, rank
from evar.pretraining.trainer import Outcome, Step, Training, train

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """The words of `evar pretrain`; None takes the preset's value.

    audio: folders and manifests. steps: instead of epochs. augment: keywords of `Augmentation` over the preset's.
    tau: of BYOL's moving average. max_hours: of this call. checkpoint_every: steps, instead of ten minutes. trained_on:
    corpus names for the `contaminated` flag of result rows. half: export matrices as float16.
    """

    audio: tuple[str, ...]
    preset: str = "v2"
    out: str = ""
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    tau: float | None = None
    augment: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    resume: bool = False
    max_hours: float | None = None
    checkpoint_every: int | None = None
    skip_licence: tuple[str, ...] = ()
    emphasis: Mapping[str, float] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()
    licence: str = ""
    half: bool = False
    tensorboard: bool = False
    cache: str = "embeddings/waveforms"


@dataclass(frozen=True)
class Trained:
    """A finished run: its weights file, how it ended, and the corpus it saw."""

    weights: Path
    outcome: Outcome
    corpus: Corpus


Say = Callable[[str], None]


def pretrain(
    options: Options,
    *,
    say: Say = lambda text: None,
    decoding: Callable[[int, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    probe_every: int = 0,
    on_probe: Callable[[int, Path], None] | None = None,
) -> Trained:
    """Train as `options` says; writes checkpoint.pt, log.csv and NAME.safetensors in the run's folder.

    say: one line about what was found or went wrong. on_probe(step, weights file): called every `probe_every` steps.
    Raises EvarError for bad input, before training where that can be known.
    """
    with processes(options.device) as device:
        preset = _overridden(get_preset(options.preset), options)
        folder = run_folder(options)
        _check_folder(folder, options.resume)
        check_writable(folder)
        if options.tensorboard:
            require("train", "--tensorboard")
        first = rank() == 0
        say = say if first else lambda text: None
        encoder = load_encoder(f"random:{preset.encoder}@{options.seed}")
        corpus = open_corpus(
            options.audio,
            encoder.sample_rate,
            options.cache,
            options.skip_licence,
            options.emphasis,
            decoding if first else None,
        )
        _say_corpus(corpus, say)
        check_same(corpus.digest, f"the audio of {', '.join(corpus.sources)}")
        training = _training(preset, options, corpus)
        method = build_method(preset, encoder, corpus, options.seed, DTYPES[options.precision])
        settings = {
            "preset": preset.name,
            "encoder": preset.encoder,
            "method": preset.method,
            **_plain(method.settings),
            **{
                key: value for key, value in asdict(training).items() if key != "steps" or training.schedule == "cosine"
            },
            "precision": options.precision,
            "processes": world_size(),
            "corpus_digest": corpus.digest,
            "emphasis": dict(options.emphasis),
        }
        make_folder(folder)

        def export(path: Path, step: int, seconds: float) -> Path:
            made = _plain(method.exports)
            told = {**settings, **made, "steps": step, "planned_steps": training.steps, "seconds": round(seconds, 1)}
            write_weights(path, _exported(method, options.half), _metadata(method, preset, options, corpus, told))
            return path

        outcome = train(
            method,
            corpus,
            training,
            folder,
            settings=settings,
            device=device,
            resume=options.resume,
            max_hours=options.max_hours,
            checkpoint_every=options.checkpoint_every,
            tensorboard=options.tensorboard and first,
            on_step=on_step,
            probe_every=probe_every,
            on_probe=on_probe and (lambda step: on_probe(step, export(folder / f"step-{step}.safetensors", step, 0.0))),
        )
        path = weights_file(folder)
        if first:
            export(path, outcome.step, outcome.seconds)
        return Trained(path, outcome, corpus)


def run_folder(options: Options) -> Path:
    """Where a run is kept: `--out`, else a folder of the store named by encoder and seed."""
    if options.out:
        return Path(options.out).expanduser()
    return Path(os.environ.get(STORE) or "pretrained") / f"{get_preset(options.preset).encoder}-s{options.seed}"


def weights_file(folder: Path) -> Path:
    """The final weights of a run: FOLDER/NAME.safetensors, NAME being the folder's."""
    return folder / f"{folder.resolve().name}.safetensors"


def build_method(preset: Preset, encoder: Any, corpus: Corpus, seed: int, dtype: torch.dtype) -> Method:
    """The preset's objective around an encoder, with the corpus's log-mel statistics where it takes any."""
    if preset.method == "byol":
        from evar.pretraining.byol import ByolMethod as Objective
    else:
        from evar.pretraining.cola import ColaMethod as Objective
    samples = Objective.crop_samples
    if not any(wav.any() for wav, _ in corpus.statistics_batches(samples)):
        raise EvarError(f"{', '.join(corpus.sources)}: every clip is silent: there is nothing to learn from")
    if encoder.needs_normalization:
        encoder = encoder.with_normalization(encoder.measure_normalization(corpus.statistics_batches(samples)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Objective(encoder, dtype=dtype, **preset.options)


def _overridden(preset: Preset, options: Options) -> Preset:
    for name in ("epochs", "lr", "tau", "max_hours"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value >= 0 and (value > 0 or name == "tau")):
            raise EvarError(f"--{name.replace('_', '-')} {value}: expected a number above 0")
    given = {
        key: value
        for key in ("batch", "lr", "epochs", "schedule", "warmup")
        if (value := getattr(options, key)) is not None
    }
    method = dict(preset.options)
    if options.augment and preset.method != "byol":
        raise EvarError(f"--augment is for byola presets: {preset.name} has no augmentation but its two crops")
    if options.augment:
        method["augmentation"] = {**method["augmentation"], **options.augment}
    if options.tau is not None:
        if preset.method != "byol":
            raise EvarError(f"--tau is for byola presets: {preset.name} has no moving average")
        method["tau"] = options.tau
    return replace(preset, options=method, **given)


def _training(preset: Preset, options: Options, corpus: Corpus) -> Training:
    pieces = len(corpus.pieces)
    if corpus.clips < 2:
        raise EvarError(f"{', '.join(corpus.sources)} holds {corpus.clips} clip: expected at least 2 to learn from")
    if preset.batch > pieces:
        raise EvarError(
            f"a batch of {preset.batch} is more than the corpus's {pieces} pieces of a second:"
            f" give --batch {pieces} or less, or more audio"
        )
    planned = preset.steps if options.epochs is None else None
    steps = options.steps or planned or max(1, math.ceil(preset.epochs * pieces / preset.batch))
    return Training(preset.batch, steps, preset.lr, options.seed, preset.schedule, preset.warmup)


def _check_folder(folder: Path, resume: bool) -> None:
    if resume and not (folder / FILE).exists():
        raise EvarError(f"no checkpoint in {folder}: expected {FILE}; leave --resume out to start a new run")
    if not resume and (folder / FILE).exists():
        raise EvarError(f"{folder} holds a run already: give --resume to go on with it, or another --out")
    if not resume and weights_file(folder).exists():
        raise EvarError(f"{folder} holds the weights of a run already (and no checkpoint): give another --out")


def _say_corpus(corpus: Corpus, say: Say) -> None:
    bad = corpus.waves.bad
    left_out = f", {corpus.left_out} manifest rows left out for their licence" if corpus.left_out else ""
    say(f"corpus: {corpus.clips} clips, {corpus.hours:.2f} h, digest {corpus.digest[:12]}{left_out}")
    for line in corpus.unused:
        say(f"warning: {line}")
    if bad:
        shown = "; ".join(list(bad.values())[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
        say(f"warning: {len(bad)} files cannot be decoded and are left out: {shown}")


def _exported(method: Method, half: bool) -> dict[str, Tensor]:
    state = method.exported()
    if not half:
        return state
    # Vectors (statistics, scales, biases) are small and stay exact.
    short = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in state.items()
    }
    large = [name for name, value in short.items() if not bool(torch.isfinite(value).all())]
    if large:
        raise EvarError(f"--half: {large[0]} holds values beyond float16: give --resume and leave --half out")
    return short


def _metadata(method: Method, preset: Preset, options: Options, corpus: Corpus, told: dict) -> dict[str, Any]:
    encoder = method.encoder
    front_end = {key: value for key, value in dict(encoder.settings).items() if key != "d"}
    return {
        "encoder": preset.encoder,
        "frontend": front_end,
        "normalization": dict(encoder.normalization) if encoder.normalization else None,
        "preset": told,
        "corpus": f"{corpus.clips} clips, {corpus.hours:.2f} h: {', '.join(Path(name).name for name in corpus.sources)}",
        "corpus_digest": corpus.digest,
        "seed": options.seed,
        "evar_version": evar.__version__,
        "licence": options.licence or "not stated: that of the audio it was trained on may bind it",
        "trained_on": list(options.trained_on),
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    import json

    return json.loads(json.dumps(dict(settings)))
