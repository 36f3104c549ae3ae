"""Where encoders compute: one device or several, with transfers that overlap with the computing.

A batch is read ahead by a thread. On a GPU it is page-locked there, goes up on a stream of its own while the batch before
it is computed, and what was computed comes back while the next one is. With several devices each has a replica of the
encoder and a thread that takes the next batch from one queue: batches are the same as on one device, so the rows are.

Where a GPU runs out of memory, batches are cut in halves from then on. A clip's row does not depend on its batch beyond
rounding (1e-4 is the contract's bound, 1e-6 is usual), so such a run agrees with another one to rounding, not to the bit,
as runs with another `--batch` do; it says so when it happens, and which `--batch` makes it repeatable.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evar.errors import EvarError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from evar.encoders.base import Encoder

Pair = tuple[str, str]  # (layer, pooling)
Batch = tuple["np.ndarray", Any, "np.ndarray"]
"""Clip indices int64 [B], samples float32 [B, N] (an array, or a page-locked tensor), lengths int64 [B]."""
Work = Callable[["Encoder", "np.ndarray", Any, "np.ndarray"], "dict[Pair, torch.Tensor]"]
Computed = tuple["np.ndarray", "dict[Pair, np.ndarray]"]
"""Clip indices int64 [B], and float32 [B, D] for each (layer, pooling)."""


MOST_CORES = 8
"""Threads that share an encoder on a CPU: each needs memory for a batch."""


@dataclass(frozen=True)
class Computing:
    """How a run computes. devices: as `resolve_devices` gives them. precision, compiled: `evar.encoders.arithmetic`."""

    devices: tuple[str, ...] = ("cpu",)
    precision: str = "fp32"
    compiled: bool = False

    def check(self, encoder: Encoder) -> None:
        """EvarError where the encoder cannot compute so: said before any work."""
        from evar.encoders.arithmetic import check_arithmetic

        if self.compiled and len(self.devices) > 1:
            raise EvarError(
                f"--compile goes with one device, found {len(self.devices)}: PyTorch compiles in one thread at a time"
            )
        check_arithmetic(encoder, self.precision, self.compiled)

    @property
    def arithmetic(self) -> str:
        """The `precision` of rows and stored sets."""
        from evar.encoders.arithmetic import arithmetic_name

        return arithmetic_name(self.precision, self.compiled)

    def ready(self, encoder: Encoder) -> Encoder:
        """The encoder as it computes on its own device; shares the weights."""
        from evar.encoders.arithmetic import in_arithmetic

        return in_arithmetic(encoder, self.precision, self.compiled)

    def replicas(self, encoder: Encoder) -> list[Encoder]:
        """One encoder for each device; the first shares the weights of `encoder`, which is on that device.

        On a CPU the same one for each core, where it works by `batch_per_core`.
        """
        import torch

        self.check(encoder)
        # A subclass of an author may keep state between its methods, so it has to say so itself.
        own = vars(type(encoder)).get("batch_per_core") or type(encoder).__module__.startswith("evar.")
        if self.devices == ("cpu",) and encoder.batch_per_core and own and not self.compiled:
            return [self.ready(encoder)] * min(torch.get_num_threads(), MOST_CORES)
        made = [encoder]
        for device in self.devices[1:]:
            try:
                made.append(copy.deepcopy(encoder).to(device))
            except Exception as error:  # a worker process, an open file: what cannot be copied says so in its own way
                raise EvarError(
                    f"{encoder.label} cannot be copied to {device} ({type(error).__name__}: {error}): give one --device"
                ) from error
        return [self.ready(one) for one in made]


def resolve_device(name: str) -> str:
    """`auto` -> `cuda` where there is one, else `cpu`; EvarError for a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EvarError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:INDEX") from None
    if device.type not in ("cpu", "cuda"):
        raise EvarError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:INDEX")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise EvarError(
            f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices seen): use --device cpu"
        )
    return str(device)


def resolve_devices(names: str) -> tuple[str, ...]:
    """`cuda:0,cuda:1` -> those two; `cuda:all` -> every GPU that is seen; else one, as `resolve_device` does.

    EvarError for a device that is not there, and for devices of several kinds.
    """
    import torch

    words = [name.strip() for name in names.split(",")]
    if "cuda:all" in words:
        if len(words) > 1:
            raise EvarError(f"--device {names}: 'cuda:all' stands alone")
        words = [f"cuda:{i}" for i in range(max(torch.cuda.device_count(), 1))]
    devices = tuple(resolve_device(word) for word in words)
    kinds = {torch.cuda.get_device_name(device) if device.startswith("cuda") else device for device in devices}
    if len(kinds) > 1:
        raise EvarError(
            f"--device {names}: {' and '.join(sorted(kinds))} round differently, so rows would depend on which of them"
            " took a batch: give devices of one kind"
        )
    return devices


def page_locked(batch: Batch) -> Batch:
    """The batch with its samples where a GPU fetches them without waiting; on the thread that reads ahead."""
    import torch

    part, wav, lengths = batch
    return part, torch.from_numpy(wav).pin_memory(), lengths


def computed(encoders: list[Encoder], batches: Iterator[Batch], work: Work) -> Iterator[Computed]:
    """`work(encoder, *batch)` of every batch, in memory: here on one encoder, in threads on several, as they come.

    An encoder that is there several times is shared by as many threads, which share the cores. The first error of any thread
    is raised here, once; no thread is left when this ends, however it ends.
    """
    if len(encoders) == 1:
        return _stream(encoders[0], batches, work)
    return _in_threads(encoders, batches, work)


def _stream(encoder: Encoder, batches: Iterator[Batch], work: Work) -> Iterator[Computed]:
    if encoder.device.type == "cuda":
        return _overlapped(encoder, batches, work)
    return ((batch[0], _arrays(work(encoder, *batch))) for batch in batches)


def _overlapped(encoder: Encoder, batches: Iterator[Batch], work: Work) -> Iterator[Computed]:
    """On a GPU: the batch before comes back, and the one behind goes up, while this one is computed."""
    import torch

    leaving: tuple[np.ndarray, dict[Pair, torch.Tensor], torch.cuda.Event] | None = None
    for part, wav, lengths in _uploaded(batches, encoder.device):
        results = work(encoder, part, wav, lengths)
        # PyTorch page-locks the target of such a copy, so that nothing waits for it here.
        host = {pair: value.to("cpu", non_blocking=True) for pair, value in results.items()}
        done = torch.cuda.current_stream(encoder.device).record_event()
        if leaving is not None:
            leaving[2].synchronize()
            yield leaving[0], _arrays(leaving[1])
        leaving = part, host, done
    if leaving is not None:
        leaving[2].synchronize()
        yield leaving[0], _arrays(leaving[1])


def _uploaded(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on `device`, one ahead. Where there is no room ahead, a batch stays here and the encoder fetches it."""
    import torch

    side = torch.cuda.Stream(device)

    def sent(batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        part, wav, lengths = batch
        try:
            with torch.cuda.stream(side):
                return (part, wav.to(device, non_blocking=True), lengths), side.record_event()
        except torch.OutOfMemoryError:
            return batch, None

    def arrived(batch: Batch, event: torch.cuda.Event | None) -> Batch:
        if event is not None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(event)
            batch[1].record_stream(stream)  # its memory is not given to the side stream before this one is through
        return batch

    waiting = None
    for batch in batches:
        ahead = sent(batch)
        if waiting is not None:
            yield arrived(*waiting)
        waiting = ahead
    if waiting is not None:
        yield arrived(*waiting)


def _in_threads(encoders: list[Encoder], batches: Iterator[Batch], work: Work) -> Iterator[Computed]:
    import torch

    from evar.encoders.arithmetic import exact

    results: queue.Queue = queue.Queue(2 * len(encoders))
    shares, n_threads = encoders[0] is encoders[-1], torch.get_num_threads()
    stop, turn = threading.Event(), threading.Lock()

    def next_ones() -> Iterator[Batch]:
        while not stop.is_set():
            with turn:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return results.put(item, timeout=0.1)

    def serve(encoder: Encoder) -> None:
        on_gpu = encoder.device.type == "cuda"
        if shares:
            torch.set_num_threads(max(1, n_threads // len(encoders)))  # here, and in threads that begin from now on
        try:
            with torch.cuda.device(encoder.device) if on_gpu else contextlib.nullcontext():
                for result in _stream(encoder, next_ones(), work):
                    put(result)
            put(None)
        except BaseException as error:
            put(error)

    threads = [threading.Thread(target=serve, args=(encoder,), daemon=True) for encoder in encoders]
    # cuDNN's flags belong to the process: threads that set and reset them would do so for each other.
    with exact(encoders[0].device):
        try:
            for thread in threads:
                thread.start()
            working = len(threads)
            while working:
                item = results.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    working -= 1
                else:
                    yield item
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            torch.set_num_threads(n_threads)


def _arrays(results: dict[Pair, torch.Tensor]) -> dict[Pair, np.ndarray]:
    return {pair: value.cpu().numpy() for pair, value in results.items()}


class Halving:
    """Encodes a batch in parts once a GPU has run out of memory with a whole one.

    encode: (samples [B, N], lengths [B]) -> {pair: float32 [B, D]}, with the encoder first; warn: told once.
    """

    def __init__(self, encode: Callable[..., dict[Pair, torch.Tensor]], warn: Callable[[str], None]) -> None:
        self._encode, self._warn, self._lock = encode, warn, threading.Lock()
        self.most: int | None = None
        """Clips that go through together; None as long as there is room for any batch."""

    def __call__(self, encoder: Encoder, wav: Any, lengths: np.ndarray) -> dict[Pair, torch.Tensor]:
        """Raises torch.OutOfMemoryError when there is no room for a single clip."""
        import torch

        while True:
            size = min(self.most or len(wav), len(wav))
            try:
                parts = [
                    self._encode(encoder, wav[i : i + size], lengths[i : i + size]) for i in range(0, len(wav), size)
                ]
                return parts[0] if len(parts) == 1 else {p: torch.cat([one[p] for one in parts]) for p in parts[0]}
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            # Here the failed attempt's tensors are gone with its frames.
            torch.cuda.empty_cache()
            with self._lock:
                if self.most is None:
                    self._warn(
                        f"{encoder.label}: {size} clips do not fit the GPU's memory: smaller batches from here on, whose rows"
                        f" agree to rounding (--batch {size // 2} from the start makes a run that repeats to the bit)"
                    )
                self.most = min(self.most or size, (size + 1) // 2)
