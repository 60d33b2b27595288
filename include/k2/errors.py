"""The errors a user can meet. Each message says what is wrong and what to do about it."""

from __future__ import annotations


class K2Error(Exception):
    """Root of all errors that K2 raises on purpose; the command line prints it as one line."""


class SettingsError(K2Error):
    """An environment variable is missing or unusable."""


class RegistryError(K2Error):
    """An entry of `tables.yaml` or `exchanges.yaml` is wrong."""


class StackError(K2Error):
    """A service of the embedded stack cannot start, or is not there."""


class IngestError(K2Error):
    """Trades cannot be read or fed into the queues."""


class OffloadError(K2Error):
    """An offload stopped before its commit; the lake is as it was."""
