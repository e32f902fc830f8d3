"""Why a whole registry could not be read. Faults of single entries are `RegistryProblem`s, not exceptions."""

from __future__ import annotations

from aos.errors import AosError


class RegistryInvalid(AosError):
    """The document as a whole is wrong, so that not even its good entries can be told."""

    code = "registry_invalid"
    title = "The registry document is not valid."


class RegistryMissing(AosError):
    """There is no document where the settings say that it is."""

    code = "registry_missing"
    title = "The registry document does not exist."


class RegistryUnreadable(AosError):
    """The document may be there, but reading it is refused: permissions, a wrong name, not a file."""

    code = "registry_unreadable"
    title = "The registry document cannot be read."
