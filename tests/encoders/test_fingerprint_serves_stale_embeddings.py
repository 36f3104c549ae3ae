"""The fingerprint keys stored embeddings: it changes with all that changes them, and with nothing else."""

import subprocess
import sys

import pytest
import torch

from evar.encoders import load_encoder
from evar.errors import EvarError

STATS = {"mean": -5.0, "std": 4.0}


def test_what_changes_it():
    prints = {
        spec + str(options): load_encoder(spec, **options).fingerprint()
        for spec, options in [
            ("logmel", {}),
            ("mfcc", {}),
            ("mfcc", {"coefficients": 40}),
            ("random:byola-v2", {}),
            ("random:byola-v2@1", {}),
            ("random:byola-v2", {"filterbank": "htk"}),
            ("random:byola-v1-512", {}),
            ("random:byola-v1-1024", {}),
        ]
    }
    encoder = load_encoder("random:byola-v2")
    prints["normalised"] = encoder.with_normalization(STATS).fingerprint()
    prints["normalised otherwise"] = encoder.with_normalization({**STATS, "std": 4.1}).fingerprint()
    later = load_encoder("random:byola-v2")
    later.version += 1
    prints["another version"] = later.fingerprint()
    with torch.no_grad():
        later.version -= 1
        later.fc[0].bias[0] += 1e-6
    prints["one weight"] = later.fingerprint()
    assert len(set(prints.values())) == len(prints)


def test_what_does_not_change_it():
    encoder = load_encoder("random:byola-v2@0").with_normalization(STATS)
    found = encoder.fingerprint()
    same = load_encoder("other-label=random:byola-v2", weights="0").with_normalization(STATS)
    assert same.label == "other-label"
    assert same.fingerprint() == found
    encoder.encode(torch.zeros(16000))
    encoder.encode_all(torch.zeros(16000), None, ["block1"], ["max"])
    encoder.train()
    assert encoder.fingerprint() == found


def test_another_process_gives_the_same():
    code = "from evar.encoders import load_encoder; print(load_encoder('random:byola-v1-512@5').fingerprint())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == load_encoder("random:byola-v1-512@5").fingerprint()


def test_random_weights_leave_the_global_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = load_encoder("random:byola-v2@3")
    assert torch.equal(torch.rand(3), expected)
    second = load_encoder("random:byola-v2@3")
    assert first.weights_kind == "random"
    assert first.weights_sha256 == second.weights_sha256 != load_encoder("random:byola-v2@4").weights_sha256
    assert not torch.equal(first.fc[0].weight, load_encoder("random:byola-v2@4").fc[0].weight)


def test_new_statistics_leave_the_original_alone():
    original = load_encoder("random:byola-v1-512")
    one = original.with_normalization(STATS)
    two = one.with_normalization({"mean": 0.0, "std": 1.0})
    wav = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    assert original.normalization is None
    assert one.normalization == STATS
    assert one.label == original.label
    assert two.fc[0].weight.data_ptr() == original.fc[0].weight.data_ptr(), "weights are shared"
    assert not torch.equal(one.encode(wav), two.encode(wav))


@pytest.mark.parametrize("stats", [{"mean": 0}, {"mean": 0, "std": 0}, {"mean": float("nan"), "std": 1}, {}, None])
def test_senseless_statistics_are_refused(stats):
    with pytest.raises(EvarError, match="normalisation statistics are"):
        load_encoder("random:byola-v2").with_normalization(stats)


def test_statistics_are_of_valid_frames_only():
    encoder = load_encoder("random:byola-v2")
    generator = torch.Generator().manual_seed(0)
    clips = [a * torch.randn(n, generator=generator) for a, n in ((0.1, 16000), (0.01, 3333), (0.5, 800), (0.2, 8123))]
    values = []
    for clip in clips:
        log_mel, _ = encoder._log_mel(clip[None], torch.tensor([len(clip)]))
        values.append(log_mel.flatten().double())
    values = torch.cat(values)
    batch = torch.full((2, 16000), 0.9), torch.full((2, 8123), 0.9)
    for row, clip in enumerate(clips):
        batch[row // 2][row % 2, : len(clip)] = clip
    found = encoder.measure_normalization([(batch[0], [16000, 3333]), (batch[1], [800, 8123])])
    assert found["mean"] == pytest.approx(float(values.mean()), rel=6e-6)  # given to six digits
    assert found["std"] == pytest.approx(float(values.std(correction=0)), rel=6e-6)


def test_threads_and_batches_do_not_move_the_statistics():
    """Regression: the last bits did, and embeddings of another machine counted as those of another encoder."""
    encoder = load_encoder("random:byola-v1-512")
    wav = 0.1 * torch.randn(12, 16000, generator=torch.Generator().manual_seed(1))
    threads, found = torch.get_num_threads(), []
    try:
        for n, batch in ((1, 12), (2, 12), (2, 5), (1, 1)):
            torch.set_num_threads(n)
            found.append(encoder.measure_normalization([(part, None) for part in wav.split(batch)]))
    finally:
        torch.set_num_threads(threads)
    assert found[1:] == found[:1] * 3


def test_statistics_that_cannot_be_measured():
    encoder = load_encoder("random:byola-v2")
    with pytest.raises(EvarError, match="no clips"):
        encoder.measure_normalization([])
    with pytest.raises(EvarError, match="silent"):
        encoder.measure_normalization([(torch.zeros(1, 16000), None)])
    with pytest.raises(EvarError, match="uses no normalisation"):
        load_encoder("logmel").measure_normalization([])
    with pytest.raises(EvarError, match="uses no normalisation"):
        load_encoder("logmel").with_normalization(STATS)
