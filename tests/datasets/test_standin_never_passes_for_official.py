"""A stand-in in an official layout is refused under the official name, `--partial` or not."""

from __future__ import annotations

import pytest

from evar.datasets import load_task
from evar.errors import EvarError


@pytest.mark.parametrize(("task", "folder"), [("vc1", "librispeech-speakers"), ("spcv2", "speech_commands_v0.02")])
@pytest.mark.parametrize("partial", [False, True])
def test_other_lists_are_refused(shared_data, task, folder, partial):
    with pytest.raises(EvarError, match="official"):
        load_task(task, root=shared_data / folder, partial=partial)
