"""Several devices, a GPU's transfers, or a lack of memory must change no row; errors of a worker are told once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import evar
from evar.audio.cache import open_waveforms
from evar.compute import Computing, Halving, computed, resolve_devices
from evar.embed import embed
from evar.errors import EvarError
from evar.store import Store

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
MEETING = threading.Barrier(2)  # where it is used, two batches must be computed at the same time


class Means(evar.Encoder):
    """Two numbers a clip; `meets`: waits for another batch to be under way, `fails`: raises for every batch."""

    name, version, sample_rate = "means", 1, 16000
    layers, hop_ms = {"out": 2}, {}
    default_layers, default_pooling = ("out",), "clip"
    meets, fails = False, False

    def _clip(self, wav, lengths):
        if self.meets:
            MEETING.wait(timeout=20)
        if self.fails:
            raise ValueError("no such thing")
        return {"out": torch.stack([wav.sum(1) / lengths, wav.abs().amax(1)], 1)}


@pytest.fixture
def waves(sounds, tmp_path):
    files = sorted(sounds.iterdir())
    n = len(files)
    return open_waveforms([file.stem for file in files], files, [0.0] * n, [None] * n, 16000, None, tmp_path / "waves")


def rows(encoder, waves, folder, devices=("cpu",), batch=4, **options):
    pair = (encoder.default_layer, encoder.default_pooling)
    found, _ = embed(
        encoder,
        waves,
        Store(folder),
        task_name="sounds",
        duration="native",
        pairs=[pair],
        batch=batch,
        computing=Computing(devices),
        **options,
    )
    return found[pair].rows(*pair)


def alive():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


@pytest.mark.parametrize("name", ["logmel", "random:byola-v1-512"])
def test_two_devices_give_the_rows_of_one(name, waves, tmp_path):
    encoder = evar.load_encoder(name)
    if encoder.needs_normalization:
        encoder = encoder.with_normalization({"mean": -7.0, "std": 4.0})
    before = alive()
    one, two = (rows(encoder, waves, tmp_path / str(len(d)), d) for d in (("cpu",), ("cpu", "cpu")))
    assert np.array_equal(one, two)
    assert alive() <= before


def test_two_devices_work_at_the_same_time(waves, tmp_path):
    encoder = Means()
    encoder.meets = True
    assert np.isfinite(rows(encoder, waves, tmp_path, ("cpu", "cpu"))).all()  # 6 batches: three meetings


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu", "cpu")])
def test_an_error_of_a_worker_is_one_line(devices, waves, tmp_path):
    encoder, before = Means(), alive()
    encoder.fails = True
    with pytest.raises(EvarError, match=r"^means failed on a batch of 4 clips \(.*ValueError: no such thing"):
        rows(encoder, waves, tmp_path, devices)
    assert alive() <= before


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_ctrl_c_keeps_what_was_computed(devices, waves, tmp_path):
    before = alive()

    def stop(done, total):
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows(Means(), waves, tmp_path, devices, progress=stop)
    assert alive() <= before
    (journal,) = (tmp_path / "means").rglob("journal")
    assert int(journal.read_text().splitlines()[-1].split()[0]) == 12
    told = []
    rows(Means(), waves, tmp_path, devices, progress=lambda done, total: told.append(done))
    assert told == [16, 20, 24]


def test_what_cannot_be_copied_says_so(waves, tmp_path):
    encoder = Means()
    encoder.lock = threading.Lock()
    with pytest.raises(EvarError, match=r"means cannot be copied to cpu \(TypeError: .*\): give one --device"):
        rows(encoder, waves, tmp_path, ("cpu", "cpu"))


def test_encoders_of_one_rate_share_one_decode_and_rows_name_the_devices(tmp_path, monkeypatch):
    from evar.audio import clips
    from evar.datasets import find_card
    from evar.datasets.mini import make

    monkeypatch.chdir(tmp_path)
    task = evar.load_task("fsdd", root=make(find_card("fsdd"), tmp_path / "fsdd")).limited(60)
    decoded, decode = [], clips.decode_int16
    monkeypatch.setattr(clips, "decode_int16", lambda path, *rest: decoded.append(path) or decode(path, *rest))
    found = evar.run("logmel,mfcc", task, probe="knn", device="cpu,cpu")
    assert len(decoded) == len(set(decoded)) == 60
    assert found["device"].str.startswith("2 x cpu (").all()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["random:byola-v1-512", "random:byola-v2", "logmel", "mfcc", "random:cola"])
def test_a_batch_per_core_gives_the_rows_of_all_cores_together(name, waves, tmp_path, three_threads):
    encoder = evar.load_encoder(name)
    if encoder.needs_normalization:
        encoder = encoder.with_normalization({"mean": -7.0, "std": 4.0})
    assert len(Computing().replicas(encoder)) == 3
    apart = rows(encoder, waves, tmp_path / "apart", batch=1)
    encoder.batch_per_core = False
    assert len(Computing().replicas(encoder)) == 1
    together = rows(encoder, waves, tmp_path / "together", batch=1)
    np.testing.assert_allclose(apart, together, rtol=1e-5, atol=1e-5)


def test_threads_that_share_an_encoder_leave_the_number_of_threads_as_it_was(tmp_path):
    before, seen = torch.get_num_threads(), []

    def work(one, part, wav, lengths):
        seen.append(torch.get_num_threads())
        if len(seen) > 3:
            raise ValueError("no")
        return {("out", "mean"): torch.zeros(len(part), 1)}

    encoder = evar.load_encoder("logmel")
    batches = ((np.arange(2), np.zeros((2, 16000), np.float32), np.full(2, 16000)) for _ in range(50))
    with pytest.raises(ValueError, match="no"):
        list(computed([encoder, encoder], batches, work))
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    threads = []
    later = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert threads == [before]


def test_names_of_devices():
    assert resolve_devices("cpu") == ("cpu",)
    assert resolve_devices("cpu, cpu") == ("cpu", "cpu")
    for wrong, message in (
        ("cpu,abacus", "unknown device 'abacus'"),
        ("cpu,", "unknown device ''"),
        ("cpu,cuda:all", "'cuda:all' stands alone"),
    ):
        with pytest.raises(EvarError, match=message):
            resolve_devices(wrong)
    if torch.cuda.is_available():
        assert len(resolve_devices("cuda:all")) == torch.cuda.device_count()
        with pytest.raises(EvarError, match="round differently"):
            resolve_devices("cpu,cuda:0")
    else:
        with pytest.raises(EvarError, match=r"device 'cuda:0' is not there \(0 CUDA devices seen\): use --device cpu"):
            resolve_devices("cuda:all")


# ---- a lack of memory ------------------------------------------------------------------------------------------------


class Small(Means):
    """A device with room for so many clips."""

    name, room = "small", 3

    def _clip(self, wav, lengths):
        if len(wav) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return super()._clip(wav, lengths)


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_out_of_memory_halves_the_batch_and_says_so_once(devices, waves, tmp_path):
    told = []
    found = rows(Small(), waves, tmp_path / "small", devices, batch=8, warn=told.append)
    assert np.allclose(found, rows(Means(), waves, tmp_path / "whole"), atol=1e-6)
    assert len(told) == 1
    assert told[0].startswith("small: 8 clips do not fit the GPU's memory: smaller batches from here on")


def test_no_room_for_one_clip_is_one_line(waves, tmp_path):
    encoder = Small()
    encoder.room = 0
    with pytest.raises(EvarError, match=r"out of memory: try a smaller --batch$"):
        rows(encoder, waves, tmp_path, batch=4)


def test_no_room_for_one_clip_on_the_cpu_says_to_shorten_it(waves, tmp_path):
    encoder = Small()
    encoder.room = 0
    with pytest.raises(EvarError, match=r"out of memory: one clip of \d+ s is too long .* cut the file"):
        rows(encoder, waves, tmp_path, batch=1)


def test_what_was_too_much_is_not_tried_again():
    tried = []

    def encode(encoder, wav, lengths):
        tried.append(len(wav))
        if len(wav) > 2:
            raise torch.OutOfMemoryError
        return {("out", "clip"): torch.as_tensor(wav[:, :1])}

    told = []
    halving = Halving(encode, told.append)
    wav = np.arange(14, dtype=np.float32).reshape(7, 2)
    for _ in range(2):
        found = halving(Means(), wav, np.full(7, 2))
        assert found["out", "clip"][:, 0].tolist() == wav[:, 0].tolist()
    assert tried == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1]
    assert len(told) == 1


# ---- a GPU -----------------------------------------------------------------------------------------------------------


@cuda
@pytest.mark.parametrize("name", ["logmel", "random:byola-v2"])
def test_transfers_that_overlap_mix_no_rows(name, waves, tmp_path):
    encoder = evar.load_encoder(name, device="cuda")
    if encoder.needs_normalization:
        encoder = encoder.with_normalization({"mean": -7.0, "std": 4.0})
    overlapped = rows(encoder, waves, tmp_path / "gpu", ("cuda",), batch=2)
    twice = rows(encoder, waves, tmp_path / "again", ("cuda",), batch=2)
    assert np.array_equal(overlapped, twice)
    for i in range(len(waves)):
        wav, lengths = waves.batch([i])
        alone = encoder.encode(wav, lengths).cpu().numpy()[0]
        assert np.abs(overlapped[i] - alone).max() <= 1e-4 * np.abs(alone).max()


@cuda
def test_a_gpu_named_twice_gives_the_rows_of_one(waves, tmp_path):
    encoder = evar.load_encoder("random:byola-v2", device="cuda:0").with_normalization({"mean": -7.0, "std": 4.0})
    one, two = (rows(encoder, waves, tmp_path / str(len(d)), d) for d in (("cuda:0",), ("cuda:0", "cuda:0")))
    assert np.array_equal(one, two)


def test_a_subclass_shares_nothing_between_threads_unless_it_says_so(three_threads):
    """Regression: an author's subclass that keeps state between its methods would have met another batch's."""
    from evar.encoders.logmel import LogMelStatistics

    class Remembers(LogMelStatistics):
        pass

    class Shares(LogMelStatistics):
        batch_per_core = True

    lengths = [len(Computing().replicas(evar.load_encoder(one))) for one in (LogMelStatistics, Remembers, Shares)]
    assert lengths == [3, 1, 3]
