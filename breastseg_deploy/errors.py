"""The error tree. Every deliberate failure of the toolkit is a BreastsegError with one clear sentence.

A message says what was expected, what came and what to do. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations


class BreastsegError(Exception):
    """Root of the tree: something the caller can act on."""

    exit_code = 1


class ArgumentError(BreastsegError):
    """A parameter lies outside what the contract allows."""


class FrameError(BreastsegError):
    """A frame breaks the frame contract (dtype, channels, size, values) or its file cannot be read."""


class SlideError(BreastsegError):
    """A slide cannot be read, or leaves open what must be known of it (channel, bit depth, pixel size)."""


class BundleError(BreastsegError):
    """A bundle is missing, incomplete, altered, or of a schema this version does not know."""


class CheckpointError(BreastsegError):
    """A checkpoint is missing, altered, of an unsafe format, or of another model."""


class OutputError(BreastsegError):
    """Results cannot be written (folder in use, no permission, no space)."""


class BackendError(BreastsegError):
    """An inference engine failed while it was loaded or while it ran."""


class ClosedError(BackendError):
    """No later call of this Segmenter can succeed: it was closed, its GPU failed for good, or this is a fork."""


class DataError(BreastsegError):
    """A data set breaks its layout; the message lists every problem that was found."""


class TrainingError(BreastsegError):
    """Training cannot go on (a loss that is not finite, out of memory); the last checkpoint stays usable."""


class ParityError(BreastsegError):
    """An artefact does not reproduce its reference within the limits."""

    exit_code = 3


class MachineError(BreastsegError):
    """This machine lacks something; the message names the command that brings it."""

    exit_code = 4
