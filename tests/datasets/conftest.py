"""A small dataset of one's own, as empty files: loading looks at names and tables, never at sound."""

from __future__ import annotations

import pytest

CARD = """
name: mine
seconds: 1.0
split: parts
group: speaker
layout: csv_columns
classes: 2
counts: {clips: 8, train: 4, valid: 2, test: 2}
"""
ROWS = [
    ("001.wav", "cat", "train", "s1"),
    ("002.wav", "dog", "train", "s1"),
    ("003.wav", "cat", "train", "s2"),
    ("004.wav", "dog", "train", "s2"),
    ("sub/005.wav", "cat", "valid", "s3"),
    ("sub/006.wav", "dog", "valid", "s3"),
    ("007.wav", "cat", "test", "s4"),
    ("008.wav", "dog", "test", "s4"),
]


class Dataset:
    """The folder `root` and the cards' folder `cards`; `load` reads the task `mine` from them."""

    def __init__(self, folder):
        self.root, self.cards = folder / "mine", folder / "cards"
        self.root.mkdir()
        self.cards.mkdir()
        self.write_card(CARD)
        self.write_rows(ROWS)
        for path, *_ in ROWS:
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).touch()

    def write_card(self, text, name="mine"):
        (self.cards / f"{name}.yaml").write_text(text)

    def write_rows(self, rows, header="path,label,split,group"):
        (self.root / "clips.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")

    def load(self, **options):
        from evar.datasets import load_task

        return load_task("mine", self.root, tasks_dir=self.cards, **options)


@pytest.fixture
def mine(tmp_path):
    return Dataset(tmp_path)


@pytest.fixture
def rows():
    return list(ROWS)


@pytest.fixture
def card_text():
    return CARD


@pytest.fixture
def own(tmp_path):
    """Load a csv_columns task `mine` from its card, empty files and the texts of its tables."""

    def load(card, files=(), **tables):
        (tmp_path / "mine.yaml").write_text(f"name: mine\nseconds: 1\nlayout: csv_columns\n{card}")
        root = tmp_path / "set"
        root.mkdir(exist_ok=True)
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        for name, text in tables.items():
            (root / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        from evar.datasets import load_task

        return load_task("mine", root, tasks_dir=tmp_path)

    load.root = tmp_path / "set"
    return load
