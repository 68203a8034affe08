"""Exceptions of txm-stream: each says what was got, what is allowed, and what to do."""

from __future__ import annotations


class TxmStreamError(Exception):
    """Base class of every error that txm-stream raises on purpose."""


class BadFrameError(TxmStreamError, ValueError):
    """A frame does not fit the scan: wrong shape, wrong type, nothing valid in it."""


class BadStackError(TxmStreamError, ValueError):
    """A stack or its energy list cannot be used as given."""


class BadReferenceError(TxmStreamError, ValueError):
    """Reference spectra cannot be read, normalised, or told apart at these energies."""


class BadProfileError(TxmStreamError, ValueError):
    """A profile names something that does not exist or is out of range."""


class BadOrderError(TxmStreamError, ValueError):
    """An operator's order does not exist, is not complete, or cannot be obeyed."""


class NoFlatError(TxmStreamError, ValueError):
    """A raw frame needs a flat field and the scan has none."""


class MissingFramesError(TxmStreamError, RuntimeError):
    """Frames of a run are gone for good; the message names them."""


class StorageFullError(TxmStreamError, OSError):
    """The scratch folder or the spool has no room left."""


class UnreachableError(TxmStreamError, ConnectionError):
    """A server does not answer."""


class BadSourceError(TxmStreamError, ValueError):
    """What documents are to come from cannot be understood."""


class MissingPackageError(TxmStreamError, ImportError):
    """An optional package is not installed."""


class NoSuchRunError(TxmStreamError, KeyError):
    """The run asked for is not there."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class ExportError(TxmStreamError, ValueError):
    """A result cannot be exported as asked."""


class OutputExistsError(TxmStreamError, FileExistsError):
    """A file would be written over."""
