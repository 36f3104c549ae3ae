"""Eight processes on overlapping grids in one results and one embeddings folder, some of them killed; readers beside them.

How often a clip is encoded is counted by an encoder that writes a line for each clip it is given.
"""

from __future__ import annotations

import csv
import io
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Count, Options, differences, evar, kill, rows, start, wait

COUNTING = '''
"""An encoder that tells of every clip it is given."""
import hashlib, os
import numpy as np, torch
from evar.encoders.base import Encoder

class Counted(Encoder):
    name, version, sample_rate = "counted", 1, 16000
    default_layers, default_pooling = ("out",), "clip"
    hop_ms = {}
    layers = {"out": 16}

    def _clip(self, wav, lengths):
        told = "".join(hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest() + "\\\\n" for clip in wav.cpu().numpy())
        log = os.open(os.environ["DRILL_ENCODED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, told.encode())
        os.close(log)
        return {"out": torch.log(torch.fft.rfft(wav, 512).abs()[:, 1:129].reshape(len(wav), 16, 8).mean(2) + 1e-3)}
'''
COUNTED = "py:counting:Counted"
ENCODERS = ("logmel", "mfcc", "random:byola-v1-512", COUNTED)
GRIDS = (  # the encoders and tasks of each of the eight; all together they are ENCODERS × TASKS
    ("logmel,mfcc", "esc10"),
    (f"{COUNTED},logmel", "cremad,esc10"),
    (f"mfcc,{COUNTED}", "esc10,cremad"),
    ("random:byola-v1-512,logmel", "esc10"),
    (f"{COUNTED}", "esc10,cremad"),
    (f"logmel,random:byola-v1-512,{COUNTED}", "esc10"),
    ("mfcc,logmel", "cremad,esc10"),
    (f"random:byola-v1-512,mfcc,{COUNTED}", "cremad"),
)
OPTIONS = "--mini --probe knn,fair"
IN_VAIN = 250  # clips that a killed process may have encoded but not committed: more than a mini holds


def drill(options: Options) -> list[Count]:
    """A round without kills, where every clip is encoded once exactly, and a round with three processes killed."""
    expected = options.scratch / "one-by-one"
    prepare(expected)
    for encoders, tasks in GRIDS:
        ran = evar("run", encoders, tasks, *OPTIONS.split(), cwd=expected, **told(expected))
        if ran.code != 0:
            raise AssertionError(f"evar run {encoders} {tasks}: exit {ran.code}: {ran.stderr[-2000:]}")
    clips = Counter((expected / "encoded").read_text().split())
    if max(clips.values()) > 1:
        raise AssertionError("one process after the other encoded a clip twice")
    rounds = [at_once(options, expected, clips, "eight writers", killed=0)]
    if not options.quick:
        rounds += [at_once(options, expected, clips, "eight writers, three killed", killed=3)]
    return [*rounds, merges(options, expected)]


def at_once(options: Options, expected: Path, clips: Counter, name: str, killed: int) -> Count:
    """All grids at once in one folder, with readers; then those that were killed again."""
    count, chance, folder = Count(name), random.Random(options.seed), options.scratch / f"at-once-{killed}"
    prepare(folder)
    over = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read, folder, expected, count, over, number) for number in range(2)]
        try:
            processes = [start(["run", *grid, *OPTIONS.split()], folder, **told(folder)) for grid in GRIDS]
            count.faults += len(processes)
            for process in chance.sample(processes, killed):
                while not list(folder.glob("embeddings/*/*/*/meta.json")):
                    time.sleep(0.05)
                time.sleep(chance.random())
                count.faults += process.poll() is None
                kill(process)
            endings = [wait(process) for process in processes]
        finally:
            over.set()
        for reader in readers:
            reader.result()
    died = 0
    for grid, ended in zip(GRIDS, endings, strict=True):
        count.saw(ended, f"run {' '.join(grid)}")
        died += ended.code < 0
        if ended.code != 0:
            if ended.code > 0:
                count.results_lost += 1
                count.notes.append(f"run {' '.join(grid)}: exit {ended.code}: {ended.stderr.strip()[-300:]}")
            count.saw(evar("run", *grid, *OPTIONS.split(), cwd=folder, **told(folder)), "run again")
    lost, wrong = differences(folder / "results", expected / "results")
    count.results_lost += lost
    count.wrong_rows += wrong
    if lost or wrong:
        count.notes.append(f"{lost} rows lost, {wrong} wrong")
    encoded = Counter((folder / "encoded").read_text().split())
    twice = (encoded - clips).total()
    if twice > died * IN_VAIN or encoded.keys() != clips.keys():
        count.wrong_rows += 1
        count.notes.append(f"{twice} clips were encoded twice")
    verified = evar("store", "verify", cwd=folder)
    if verified.code != 0:
        count.wrong_rows += 1
        count.notes.append(f"store verify: {verified.stdout.strip()[-300:]}")
    count.notes.append(f"{encoded.total()} clips encoded, {clips.total()} of them different")
    return count


def read(folder: Path, expected: Path, count: Count, over: threading.Event, number: int) -> None:
    """Read and merge while others write: whatever a reader sees is true, only not all of it."""
    wanted = {str(sorted(row.items())) for row in rows(expected / "results" / "leaderboard.csv")}
    commands = [
        "leaderboard --canonical",
        "store list",
        f"results merge results --into merged{number}",
        "export -o {}.csv",
    ]
    turn = number
    while not over.wait(0.2):
        words = commands[turn % len(commands)].format(f"export{number}").split()
        turn += 1
        if not (folder / "results" / "runs.csv").exists():
            continue
        seen = evar(*words, cwd=folder)
        count.faults += 1
        count.saw(seen, " ".join(words))
        if seen.code not in (0, 2) or (seen.code == 2 and "no " not in seen.stderr and "nothing" not in seen.stderr):
            count.notes.append(f"{' '.join(words)}: exit {seen.code}: {seen.stderr.strip()[-300:]}")
            count.results_lost += 1
        if words[0] == "leaderboard":
            found = csv.DictReader(io.StringIO(seen.stdout))
            count.wrong_rows += sum(str(sorted(row.items())) not in wanted for row in found)


def merges(options: Options, expected: Path) -> Count:
    """Eight merges at once into one folder, which already has some of the rows."""
    count, folder = Count("eight merges"), options.scratch / "merges"
    prepare(folder)
    sources = [expected / "results"] * 8
    processes = [start(["results", "merge", source, "--into", "results"], folder) for source in sources]
    for process in processes:
        ended = wait(process)
        count.faults += 1
        count.saw(ended, "results merge")
        count.results_lost += ended.code != 0
    lost, wrong = differences(folder / "results", expected / "results")
    count.results_lost += lost
    count.wrong_rows += wrong
    return count


def prepare(folder: Path) -> None:
    """A folder with the counting encoder in it."""
    folder.mkdir()
    (folder / "counting.py").write_text(COUNTING.replace("\\\\n", "\\n"))


def told(folder: Path) -> dict[str, str]:
    """Where the counting encoder writes."""
    return {"DRILL_ENCODED": str(folder / "encoded")}
