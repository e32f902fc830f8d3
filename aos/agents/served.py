"""What the service does itself for an agent: connected agents that it runs, Azure Functions that it calls."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from aos.kernel.ports import AgentSpec, ServiceAgent, ServiceFunction
from aos.kernel.records import replace
from aos.mcp.functions import FunctionTools, ToolNamesCollide


@dataclass(frozen=True, slots=True)
class Served:
    """Tools of one agent whose calls AOS never sees."""

    functions: tuple[ServiceFunction, ...] = ()
    agents: tuple[ServiceAgent, ...] = ()

    @property
    def names(self) -> list[str]:
        """As the model sees them."""
        return [*(function.definition.name for function in self.functions), *(agent.name for agent in self.agents)]

    @property
    def queues(self) -> list[str]:
        """The storage queues that the service needs."""
        found = (queue for function in self.functions for queue in (function.input_queue, function.output_queue))
        return list(dict.fromkeys(found))

    @property
    def version(self) -> str:
        """Changes with them, also when a connected agent is made again."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def into(self, spec: AgentSpec, tools: FunctionTools) -> AgentSpec:
        """The spec with these tools beside the functions of AOS.

        Raises:
            ToolNamesCollide: Two of all the tools have one name.
        """
        names = [*tools.names, *self.names]
        for name in names:
            if names.count(name) > 1:
                raise ToolNamesCollide(f"Two tools of agent {spec.agent_id!r} are {name!r} for the model: rename one.")
        return replace(spec, service_functions=self.functions, service_agents=self.agents)


NOTHING = Served()
