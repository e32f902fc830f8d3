"""Tools that the service deals with itself, in the wire form of both generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aos.errors import FoundryRefused
from aos.kernel.ports import AgentSpec, ServiceFunction

if TYPE_CHECKING:
    from azure.ai.agents.aio import AgentsClient
    from azure.ai.agents.models import ToolDefinition
    from azure.ai.projects.models import Tool


def thread_tools(spec: AgentSpec) -> list[ToolDefinition]:
    """For assistants: `AzureFunctionTool` and `ConnectedAgentTool`."""
    from azure.ai.agents import models

    tools: list[ToolDefinition] = []
    for function in spec.service_functions:
        shown = function.definition
        where = function.endpoint
        tools += models.AzureFunctionTool(
            name=shown.name,
            description=shown.description,
            parameters=dict(shown.parameters),
            input_queue=models.AzureFunctionStorageQueue(
                queue_name=function.input_queue, storage_service_endpoint=where
            ),
            output_queue=models.AzureFunctionStorageQueue(
                queue_name=function.output_queue, storage_service_endpoint=where
            ),
        ).definitions
    for agent in spec.service_agents:
        tools += models.ConnectedAgentTool(id=agent.version, name=agent.name, description=agent.description).definitions
    return tools


def response_tools(spec: AgentSpec) -> list[Tool]:
    """For agent versions: `AzureFunctionTool`.

    Raises:
        FoundryRefused: The agent has connected agents, which this generation does not know.
    """
    if spec.service_agents:
        raise FoundryRefused(
            f'Agent {spec.agent_id!r} has `delegation` "service", which the current generation of Foundry does not '
            'have: leave it at "aos", or run on FOUNDRY_API=threads.',
            code="connected_agents_unavailable",
        )
    return [_function_tool(function) for function in spec.service_functions]


def _function_tool(function: ServiceFunction) -> Tool:
    from azure.ai.projects import models

    def binding(queue: str) -> models.AzureFunctionBinding:
        where = models.AzureFunctionStorageQueue(queue_service_endpoint=function.endpoint, queue_name=queue)
        return models.AzureFunctionBinding(storage_queue=where)

    shown = function.definition
    return models.AzureFunctionTool(
        azure_function=models.AzureFunctionDefinition(
            function=models.AzureFunctionDefinitionFunction(
                name=shown.name, description=shown.description, parameters=dict(shown.parameters)
            ),
            input_binding=binding(function.input_queue),
            output_binding=binding(function.output_queue),
        )
    )


async def gone_agents(client: AgentsClient, assistant_id: str) -> Sequence[str]:
    """Names of connected agents of an assistant that do not exist any more."""
    from azure.core.exceptions import ResourceNotFoundError

    gone: list[str] = []
    assistant: Any = await client.get_agent(assistant_id)
    for tool in assistant.tools or ():
        if tool.type != "connected_agent":
            continue
        try:
            await client.get_agent(tool.connected_agent.id)
        except ResourceNotFoundError:
            gone.append(str(tool.connected_agent.name))
    return gone
