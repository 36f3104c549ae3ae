"""From files to stored embeddings: open the waveforms, give the encoder its statistics, encode each clip once.

Files are decoded once for each sample rate, into a cache of int16 waveforms that all encoders of that rate read. Reading,
computing and writing overlap (`evar.compute`); what was computed is committed to the store a few times a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.compute import Computing, Halving, computed, page_locked
from evar.errors import EvarError, out_of_memory
from evar.files import atomic_write, check_writable, digest
from evar.store_format import holds_v1

if TYPE_CHECKING:
    import numpy as np

    from evar.audio.cache import Waveforms
    from evar.datasets.task import Task
    from evar.encoders.base import Encoder
    from evar.store import Embeddings, Store, Writer

Progress = Callable[[int, int], None]
Pair = tuple[str, str]  # (layer, pooling)
PREFETCH = 4  # batches read ahead of the encoder
# Most padded samples in a batch of native lengths, 4 minutes at 16 kHz; a longer clip goes alone.
BATCH_SAMPLES = 1 << 22
LONGEST_REASON = 400  # characters of an encoder's own error that are shown: a compiler's has thousands
COMMIT_SECONDS = 0.25
"""What a `kill -9` can cost. A commit has a price (0.5 ms), which a fast encoder would pay for each small batch."""


def open_task_waveforms(
    task: Task,
    sample_rate: int,
    *,
    embeddings: Path,
    duration: str = "card",
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Waveforms:
    """The task's clips as int16 waveforms at `sample_rate`, decoded once into `EMBEDDINGS/waveforms/`."""
    from evar.audio.cache import open_waveforms

    clips = task.clips
    return open_waveforms(
        clips["clip_id"].tolist(),
        task.files(),
        clips["start"].to_numpy(),
        clips["stop"].to_numpy(),
        sample_rate,
        task.card.seconds if duration == "card" else None,
        embeddings / "waveforms",
        skip_bad=skip_bad,
        progress=progress,
    )


def batches(waves: Waveforms, indices: np.ndarray, encoder: Encoder, duration: str, batch: int | None) -> Iterator:
    """Yield (clip indices, wav float32 [B, L], lengths int64 [B]), longest first, read ahead by a thread.

    wav is an array, or a page-locked tensor for an encoder on a GPU.
    """
    from evar.audio.batches import length_batches

    size = batch or preferred_batch(encoder)
    if duration == "card":
        samples = round(waves.seconds * waves.sample_rate)
        plan = [indices[i : i + size] for i in range(0, len(indices), size)]
    else:
        samples = None
        equal = encoder.equal_lengths_only
        parts = length_batches(waves.lengths[indices], size, budget=BATCH_SAMPLES, equal=equal)
        plan = [indices[part] for part in parts]

    def read(part: np.ndarray) -> tuple:
        wav, lengths = waves.batch(part, samples)
        if samples is not None:  # the zeros that fill a clip up to the card's seconds belong to it
            lengths = lengths * 0 + samples
        return page_locked((part, wav, lengths)) if encoder.device.type == "cuda" else (part, wav, lengths)

    yield from _read_ahead(read, plan)


def duration_key(waves: Waveforms) -> str:
    """What clips are cut or zero-padded to, as the keys of stored things hold it: seconds, or `native`."""
    return "native" if waves.seconds is None else f"{waves.seconds:g}"


def preferred_batch(encoder: Encoder) -> int:
    """Clips per batch that the encoder asks for on the device it is on."""
    return encoder.preferred_batch["cuda" if encoder.device.type == "cuda" else "cpu"]


def _read_ahead(read: Callable, plan: list) -> Iterator:
    """Run `read` over `plan` in a thread, at most PREFETCH results ahead; its errors surface here."""
    results: queue.Queue = queue.Queue(PREFETCH)
    stop = threading.Event()

    def put(item: tuple) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return results.put(item, timeout=0.1)

    def work() -> None:
        try:
            for part in plan:
                if stop.is_set():
                    return
                put((read(part), None))
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            result, error = results.get()
            if error is not None:
                raise error
            if result is None:
                return
            yield result
    finally:
        stop.set()
        thread.join()


def choose_norm(encoder: Encoder, norm: str, protocol_norm: str, task: Task) -> str:
    """Which statistics the encoder gets: `none`, `weights`, `train` (training part) or `fold1` (all folds but the first).

    The protocol's own choice is METHODS' rule: `paper` takes the task's, `fair` those in the weights file where there are any.
    """
    if not encoder.needs_normalization:
        return "none"
    of_task = "fold1" if task.card.split == "folds" else "train"
    wanted = protocol_norm if norm == "auto" else norm
    if wanted == "weights" and norm == "weights" and encoder.normalization is None:
        raise EvarError(f"{encoder.label}: its weights carry no normalisation statistics: use --norm task")
    return "weights" if wanted in ("weights", "auto") and encoder.normalization is not None else of_task


def normalized(
    encoder: Encoder, norm: str, task: Task, waves: Waveforms, duration: str, folder: Path, fingerprint: str
) -> Encoder:
    """The encoder with the statistics that `norm` names, measured once per (front end, clips) and kept as JSON.

    fingerprint: of the encoder as it is given; it takes seconds for a large network, so the caller keeps it.
    """
    if norm in ("none", "weights"):
        return encoder
    indices = _training_clips(task, waves, norm)
    key = digest([fingerprint, waves.fingerprint, norm, duration_key(waves), [int(i) for i in indices]])
    kept = folder / "normalization" / f"{key[:32]}.json"
    try:
        text = json.loads(kept.read_text())
        if text.pop("digest") == digest(text):  # else it is damaged, and measured again
            return encoder.with_normalization(text["statistics"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    check_writable(kept.parent)
    pairs = ((wav, lengths) for _, wav, lengths in batches(waves, indices, encoder, duration, None))
    statistics = encoder.measure_normalization(pairs)
    text = {"statistics": statistics, "encoder": encoder.label, "task": task.name, "norm": norm, "clips": len(indices)}
    atomic_write(kept, json.dumps(text | {"digest": digest(text)}, indent=1) + "\n")
    return encoder.with_normalization(statistics)


def _training_clips(task: Task, waves: Waveforms, norm: str) -> np.ndarray:
    import numpy as np

    training = task.clips["fold"] != 1 if norm == "fold1" else task.clips["split"] == "train"
    indices = [i for i in np.flatnonzero(training.to_numpy()) if i not in waves.bad]
    return np.array(indices, dtype=np.int64)


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of up to 1 GiB for reuse, once per process; elsewhere nothing happens.

    Without it each batch's activations go back to the system and are faulted in anew: 1.3x slower for BYOL-A v1 on 2 cores.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 30)


def embed(
    encoder: Encoder,
    waves: Waveforms,
    store: Store,
    *,
    task_name: str,
    duration: str,
    pairs: Sequence[Pair],
    made_by: Mapping[str, Any] | None = None,
    batch: int | None = None,
    computing: Computing | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[dict[Pair, Embeddings], float]:
    """The set that holds each (layer, pooling) of `pairs`, after one pass over the clips for those that the store lacks;
    and the seconds that took. Encoding that was interrupted continues at the first clip not yet journalled.
    made_by: `encoder_fingerprint` of the encoder as it was loaded and the `normalization` that it was given since (None:
    none), where the caller has them. computing: the default is float32 on the encoder's own device.
    warn: takes a line that the user should not miss.
    """
    computing = computing or Computing((str(encoder.device),))
    settings = {
        **(made_by or {"encoder_fingerprint": encoder.fingerprint(), "normalization": None}),
        "clips_fingerprint": waves.fingerprint,
        "duration": duration_key(waves),
        "precision": computing.arithmetic,
    }
    found = {pair: store.find(settings, [pair]) for pair in pairs}
    missing = [pair for pair, held in found.items() if held is None]
    if not missing:
        return found, 0.0
    if holds_v1(store.root, encoder.label, task_name, missing):
        warn(
            f"{encoder.label} × {task_name}: embeddings are stored as an earlier evar named them, and are encoded again; "
            f"'evar store migrate --embeddings {store.root}' keeps those of the same encoder"
        )
    keep_freed_memory()
    started = time.perf_counter()
    replicas = computing.replicas(encoder)
    matrices = [(*pair, encoder.dim(*pair)) for pair in missing]
    n_clips = len(waves.ids)
    with store.writer(settings, matrices, n_clips, encoder.label, task_name) as writer:
        import numpy as np

        pending = np.asarray(writer.pending)
        good = pending[~np.isin(pending, list(waves.bad))]
        done = n_clips - len(pending)
        if len(good) < len(
            pending
        ):  # a skipped clip keeps its row, zeros that no probe reads: clip order stays the task's
            skipped = np.setdiff1d(pending, good)
            writer.write(skipped, {(a, b): np.zeros((len(skipped), dim), np.float32) for a, b, dim in matrices})
            done += len(skipped)
        encode = Halving(lambda one, wav, lengths: one.encode_pairs(wav, lengths, missing), warn)

        def work(one: Encoder, part: np.ndarray, wav: object, lengths: np.ndarray) -> dict:
            with naming(one, waves, part, wav.shape[1] / one.sample_rate):
                return encode(one, wav, lengths)

        with (
            contextlib.closing(batches(waves, good, encoder, duration, batch)) as source,
            contextlib.closing(computed(replicas, source, work)) as results,
            _committing(writer) as commit,
        ):
            for part, vectors in results:
                for values in vectors.values():
                    _check_finite(encoder, waves, part, values)
                commit(part, vectors)
                done += len(part)
                if progress:
                    progress(done, n_clips)
        written = writer.finish()
    return {pair: held or written for pair, held in found.items()}, time.perf_counter() - started


@contextlib.contextmanager
def _committing(writer: Writer) -> Iterator[Callable[[np.ndarray, dict[Pair, np.ndarray]], None]]:
    """A function that takes rows and commits them together with those of the last COMMIT_SECONDS; the rest at the end.

    Whatever ends the encoding, an error or Ctrl-C, what was computed before is kept.
    """
    import numpy as np

    held: list[tuple[np.ndarray, dict[Pair, np.ndarray]]] = []
    due = time.monotonic() + COMMIT_SECONDS

    def write() -> None:
        if held:
            parts, vectors = zip(*held, strict=True)
            held.clear()
            writer.write(
                np.concatenate(parts), {pair: np.concatenate([one[pair] for one in vectors]) for pair in vectors[0]}
            )

    def commit(part: np.ndarray, vectors: dict[Pair, np.ndarray]) -> None:
        nonlocal due
        held.append((part, vectors))
        if time.monotonic() >= due:
            write()
            due = time.monotonic() + COMMIT_SECONDS

    try:
        yield commit
    finally:
        write()


@contextlib.contextmanager
def naming(encoder: Encoder, waves: Waveforms, part: np.ndarray, seconds: float) -> Iterator[None]:
    """Turn whatever an encoder's own code raises into one line that names the encoder and the clip it began with.

    seconds: of the batch's longest clip.
    """
    try:
        yield
    except EvarError:
        raise
    except (Exception, SystemExit) as error:  # an own encoder that exits must not end the run as if all were well
        if os.environ.get("EVAR_TRACEBACK"):
            raise
        where = f"{encoder.label} failed on a batch of {len(part)} clips (the first is {waves.ids[part[0]]})"
        if out_of_memory(error):
            raise EvarError(f"{where}: out of memory: {_room(encoder, len(part), seconds)}") from error
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        compiling = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        advice = "leave --compile out; " if compiling else ""
        raise EvarError(f"{where}: {type(error).__name__}: {reason} ({advice}EVAR_TRACEBACK=1 shows where)") from error


def _room(encoder: Encoder, clips: int, seconds: float) -> str:
    """What helps when a batch does not fit: of one clip on a CPU nothing but a shorter one does."""
    if clips > 1 or encoder.device.type != "cpu":
        return "try a smaller --batch, or --device cpu" if encoder.device.type != "cpu" else "try a smaller --batch"
    return (
        f"one clip of {seconds:.0f} s is too long for this machine's memory: cut the file into shorter ones,"
        " or, with a task, give its card fewer `seconds` (and leave --duration native out)"
    )


def _check_finite(encoder: Encoder, waves: Waveforms, part: np.ndarray, vectors: np.ndarray) -> None:
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EvarError(
            f"{encoder.label} gives NaN or infinity for {len(bad)} of {len(part)} clips (the first is "
            f"{waves.ids[part[bad[0]]]}): nothing of this batch is stored; mend the encoder, 'evar check' helps"
        )
