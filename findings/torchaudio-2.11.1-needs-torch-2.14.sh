#!/usr/bin/env bash
# torchaudio 2.11.1 declares torch>=2.11, but its compiled part cannot be loaded with torch 2.11.0: importing it fails
# with an undefined symbol. The same wheel loads with torch 2.14.1, and torchaudio 2.11.0 loads with both.
# Needs Python 3.11 on Linux x86_64 and 16 GB of disk for a while. Exit status 0: as described; 1: it has changed.
set -euo pipefail
python=${PYTHON:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
python="$folder/venv/bin/python"

install() { "$python" -m pip install -q --disable-pip-version-check "$@" 2>/dev/null; }
# One log-mel spectrogram of a second of silence: prints the versions, or the last line of what went wrong.
try() {
  "$python" - 2>&1 <<'PYTHON'
import ctypes
import importlib.metadata
import pathlib
import warnings

import torch

warnings.simplefilter("ignore")
pair = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchaudio"))
print(f"{pair} declares {importlib.metadata.requires('torchaudio')}")
try:
    import torchaudio

    print("loads:", list(torchaudio.transforms.MelSpectrogram(16000)(torch.zeros(1, 16000)).shape))
except (ImportError, OSError) as error:
    print(f"fails: {type(error).__name__}: {str(error).splitlines()[0]}".replace(str(pathlib.Path(torch.__file__).parents[1]), ""))
    folder = pathlib.Path(torch.__file__).parents[1] / "torchaudio"
    for library in sorted(folder.rglob("*.so")):
        try:
            ctypes.CDLL(str(library))
        except OSError as reason:
            print("  ", str(reason).rpartition("/")[2])
PYTHON
}

changed=0
expect() { # expect WORD: the pair that is installed now loads, or fails
  local said
  said=$(try) || true
  echo "$said"
  if ! grep -q "^$1:" <<<"$said"; then
    echo "CHANGED: expected that it $1"
    changed=1
  fi
}
install torch==2.11.0 torchaudio==2.11.0 'setuptools<82'
expect loads
install --no-deps torchaudio==2.11.1
expect fails
"$python" -m pip check --disable-pip-version-check || true # pip sees nothing wrong
install torch==2.14.1 torchaudio==2.11.1
expect loads
install --no-deps torchaudio==2.11.0
expect loads
exit $changed
