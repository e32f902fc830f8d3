"""What can go wrong with the local stack; each text names the part, the cause and the remedy."""

from __future__ import annotations


class StackError(Exception):
    """The local stack cannot start or go on. The text is meant for the person who started it."""


class PortInUse(StackError):
    """Another program listens on a port that a part was to have."""


class AlreadyRunning(StackError):
    """Another stack uses the same state folder."""


class InstallFailed(StackError):
    """Azurite, or the Node.js that it needs, could not be had."""


class PartFailed(StackError):
    """A part of the stack did not become ready, or ended too often."""


class BadSetting(StackError):
    """A setting or a file that the stack was given cannot be used."""
