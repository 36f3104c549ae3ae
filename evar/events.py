"""Scalars as TensorBoard event files (extra `train`), in TensorBoard's own record format.

`SummaryWriter` imports TensorFlow wherever it is installed: 10 s, and TensorFlow in a process that should not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO


class EventWriter:
    """Writes one events file to `stream`, which stays the caller's to close. wall_time: seconds since 1970."""

    def __init__(self, stream: BinaryIO, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._records = RecordWriter(stream)
        self._write(wall_time=wall_time, file_version="brain.Event:2")

    def restart(self, wall_time: float, step: int) -> None:
        """Readers drop what earlier files of the folder say of `step` and later."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(wall_time=wall_time, step=step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, wall_time: float, step: int, values: Mapping[str, float]) -> None:
        """One event that holds every value under its tag."""
        summary = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(wall_time=wall_time, step=step, summary=self._summary(value=summary))

    def _write(self, **fields: object) -> None:
        self._records.write(self._event(**fields).SerializeToString())
