#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2): an MP3 of 16 or 22.05 kHz that is read block by block, or from a place inside,
# can give other samples than the same file read at once, by up to half of full scale. No error is raised; lines of the
# decoder may appear on stderr. At 44.1 kHz, and for Vorbis, Opus and FLAC, the same reads agree.
# Needs Python 3.11 on Linux x86_64. Exit status 0: as described; 1: it has changed.
set -euo pipefail
python=${PYTHON:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check soundfile==0.14.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

import numpy as np
import soundfile

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
as_described = True
for form, subtype, rate in (
    ("MP3", "MPEG_LAYER_III", 16000), ("MP3", "MPEG_LAYER_III", 22050), ("MP3", "MPEG_LAYER_III", 44100),
    ("OGG", "VORBIS", 22050), ("OGG", "OPUS", 16000), ("FLAC", "PCM_16", 22050),
):
    in_blocks = from_inside = 0.0
    for seed in range(10):
        random, stream = np.random.default_rng(seed), io.BytesIO()
        soundfile.write(stream, (0.3 * random.standard_normal(8 * rate)).clip(-1, 1), rate, format=form, subtype=subtype)
        data = stream.getvalue()
        whole = soundfile.read(io.BytesIO(data))[0]
        blocks = np.concatenate(list(soundfile.blocks(io.BytesIO(data), blocksize=rate)))
        in_blocks = max(in_blocks, abs(blocks - whole).max())
        for second in range(1, 7):
            start = second * rate + 37
            inside = soundfile.read(io.BytesIO(data), start=start, frames=rate // 2)[0]
            from_inside = max(from_inside, abs(inside - whole[start : start + rate // 2]).max())
    print(f"{form} {subtype} {rate} Hz, worst of 10 files of noise: in blocks {in_blocks:.1e}, from inside {from_inside:.1e}")
    as_described &= (max(in_blocks, from_inside) > 0.05) == (form == "MP3" and rate < 44100)
sys.exit(not as_described)
PYTHON
