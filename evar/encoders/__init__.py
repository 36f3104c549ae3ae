"""Frozen encoders behind one contract: waveforms in, embeddings out. One file per family; nothing else to edit."""

from evar.encoders.registry import EncoderName, Entry, list_encoders, load_encoder, parse

__all__ = ["EncoderName", "Entry", "list_encoders", "load_encoder", "parse"]
