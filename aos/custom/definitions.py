"""What agents are, per version: there is no service that remembers it for the custom runtime.

A version is the hash of its definition and never changes, so that a turn that goes on in another process, or after the
registry changed, is answered by the agent that began it.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from aos.errors import AgentGone
from aos.foundry.provisioning import definition_hash, foundry_name
from aos.kernel.ports import AgentSpec
from aos.kernel.types import AgentRef
from aos.storage.account import StorageAccount, storage_errors

CONTAINER = "aos-agents"
SPEC = TypeAdapter(AgentSpec)


class Definitions:
    """Agent definitions by reference; the newest of each agent also in memory.

    Args:
        account: Where they are shared; without it this process remembers for itself.
    """

    def __init__(self, account: StorageAccount | None) -> None:
        self._account = account
        self._known: dict[str, tuple[AgentRef, AgentSpec]] = {}

    async def ensure(self, spec: AgentSpec) -> AgentRef:
        """Keeps the definition and returns the reference to it. Twice the same spec is the same reference."""
        wanted = definition_hash(spec)
        name = foundry_name(spec.agent_id)
        known = self._known.get(name)
        if known is not None and known[0].definition_hash == wanted:
            return known[0]
        ref = AgentRef(name, wanted[:12], wanted, spec.deployment)
        if self._account is not None:
            await self._write(self._account, ref, spec)
        self._known[name] = (ref, spec)
        return ref

    async def get(self, ref: AgentRef) -> AgentSpec:
        """The definition behind a reference.

        Raises:
            AgentGone: It was deleted.
        """
        known = self._known.get(ref.name)
        if known is not None and known[0] == ref:
            return known[1]
        if self._account is None:
            raise _gone(ref)
        return await self._read(self._account, ref)

    def forget(self, agent_id: str) -> None:
        """The next `ensure` writes it anew."""
        self._known.pop(foundry_name(agent_id), None)

    async def _write(self, account: StorageAccount, ref: AgentRef, spec: AgentSpec) -> None:
        from azure.core.exceptions import ResourceExistsError

        container = await account.container(CONTAINER)
        with storage_errors(f"definition of agent {ref.name}"):
            try:
                await container.upload_blob(_blob(ref), SPEC.dump_json(spec))
            except ResourceExistsError:
                # The name is the hash of the content.
                return

    async def _read(self, account: StorageAccount, ref: AgentRef) -> AgentSpec:
        from azure.core.exceptions import ResourceNotFoundError

        container = await account.container(CONTAINER)
        with storage_errors(f"definition of agent {ref.name}"):
            try:
                stream = await container.download_blob(_blob(ref))
                return SPEC.validate_json(await stream.readall())
            except ResourceNotFoundError:
                raise _gone(ref) from None


def _blob(ref: AgentRef) -> str:
    return f"{ref.name}/{ref.definition_hash}.json"


def _gone(ref: AgentRef) -> AgentGone:
    return AgentGone(f"The definition of agent {ref.name}, version {ref.version}, is gone. It is made anew.")
