"""Fear: of a user's own file we say "restore the official file"."""

from __future__ import annotations

import pytest

from evar.datasets import load_task
from evar.datasets.verify import verify
from evar.errors import EvarError

HEAD = "name: mine\nseconds: 1\nsplit: parts\n"


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("layout: csv_columns\n", "path,path,label,split\na,a,b,train\n"),
        ("layout: csv_columns\n", "path,label,split\n../a.wav,b,train\n"),
        ("layout: csv_columns\n", 'path,label,split\n"a.wav"x,b,train\n'),
        ("layout: csv_columns\n", "path,label,split,group\na.wav,a,train,x\nb.wav,b,test,x\n"),
        ("layout: csv_columns\ncounts: {clips: 1}\n", "path,label,split\na.wav,a,train\nb.wav,b,test\n"),
        ("layout: csv_columns\n", "path,label,split\na.wav,a,train\nb.wav,b,test\nc.wav,b,test\n"),
    ],
)
def test_own_tables_are_to_be_corrected(tmp_path, card, text):
    root = tmp_path / "set"
    root.mkdir()
    group = "group: speaker\n" if "group" in text else ""
    (tmp_path / "mine.yaml").write_text(HEAD + card + group)
    (root / "clips.csv").write_text(text)
    for name in ("a.wav", "b.wav"):
        (root / name).touch()
    with pytest.raises(EvarError) as error:
        load_task(str(tmp_path / "mine.yaml"), root)
    assert "official f" not in str(error.value)
    assert "restore" not in str(error.value)
    report = verify(str(tmp_path / "mine.yaml"), root)
    assert not any("restore" in message for message in report.messages)
