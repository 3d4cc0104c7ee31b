"""Errors a user can act on: each message says what was given, what was wanted and what to do."""

from __future__ import annotations


class LwsegError(Exception):
    """Base of every error this package raises on purpose; the shell prints it as one line."""


class ModelError(LwsegError):
    """A model file, its metadata or its backend cannot be used."""


class DataError(LwsegError):
    """A data set, label space, image, video, bag or recipe cannot be used."""


class FrameError(LwsegError):
    """One camera frame is malformed; the message names the field."""


class InferenceError(LwsegError):
    """The network failed on one frame (out of memory, non-finite logits)."""


class TrainingError(LwsegError):
    """A training run cannot go on (its loss or weights are not finite)."""
