"""From audio files to batches of waveforms, and from waveforms to log-mel spectrograms.

decode.py reads one file; cache.py keeps the decoded clips of a task on disk; batches.py groups clips of equal length;
mel.py is the front end that encoders share.
"""
