"""Reading a sound block by block without disturbing its decoder."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import soundfile


@functools.cache
def forward_class() -> type[soundfile.SoundFile]:
    """SoundFile for reading forward in blocks."""
    import soundfile

    class Forward(soundfile.SoundFile):
        """A sound that stays where reading has left it: SoundFile seeks there again after each read, which disturbs mp3."""

        def seekable(self) -> bool:
            return False

    return Forward
