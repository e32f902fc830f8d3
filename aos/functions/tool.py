"""`AzureFunctionTool`: a function as a tool, in the words of Foundry's SDK, for code that makes agents itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from aos.config import load_settings
from aos.errors import SettingError
from aos.registry.azure_functions import AzureFunction, default_queue
from aos.registry.problems import RegistryProblem, json_pointer

if TYPE_CHECKING:
    from azure.ai.agents.models import AzureFunctionToolDefinition


class InvalidFunctionTool(SettingError):
    """The detail names each fault by JSON pointer."""

    code = "invalid_function_tool"
    title = "The tool cannot be made."


@dataclass(frozen=True, slots=True)
class AzureFunctionStorageQueue:
    """A queue and the service that it belongs to: `https://<account>.queue.core.windows.net`."""

    queue_name: str
    storage_service_endpoint: str


@dataclass(frozen=True, slots=True)
class AzureFunctionTool:
    """A queue-triggered function that an agent may call.

    `registry_entry` is what stands in `azure_functions` of an agent's entry: AOS calls the function itself, on either
    generation of Foundry. `definitions` are for agents of the threads generation that are made by hand: the service
    calls the function.

    Attributes:
        parameters: JSON Schema of type object.
    """

    name: str
    description: str
    parameters: Mapping[str, JsonValue]
    input_queue: AzureFunctionStorageQueue
    output_queue: AzureFunctionStorageQueue

    @classmethod
    def named(
        cls, name: str, description: str, parameters: Mapping[str, JsonValue], *, endpoint: str | None = None
    ) -> Self:
        """A tool with the queues that its name stands for.

        Args:
            endpoint: Of the queue service; without it setting `STORAGE_SERVICE_ENDPOINT`.

        Raises:
            SettingError: There is no endpoint.
            InvalidFunctionTool: Name or parameters are not usable.
        """
        endpoint = endpoint or load_settings().function_endpoint
        if endpoint is None:
            raise SettingError(
                "Missing STORAGE_SERVICE_ENDPOINT: the queue service, as in https://<account>.queue.core.windows.net."
            )
        tool = cls(
            name,
            description,
            parameters,
            AzureFunctionStorageQueue(default_queue(name, "input"), endpoint),
            AzureFunctionStorageQueue(default_queue(name, "output"), endpoint),
        )
        tool.checked()
        return tool

    def checked(self) -> AzureFunction:
        """The tool as the registry reads it.

        Raises:
            InvalidFunctionTool: Name, parameters or queues are not usable.
        """
        from pydantic import ValidationError

        try:
            function = AzureFunction.model_validate(self.registry_entry)
        except ValidationError as error:
            found = [(each["loc"], each["msg"]) for each in error.errors(include_url=False, include_input=False)]
        else:
            found = list(function.faults())
            if not found:
                return function
        problems = [RegistryProblem(json_pointer(*at), detail) for at, detail in found]
        raise InvalidFunctionTool("; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems))

    @property
    def registry_entry(self) -> dict[str, JsonValue]:
        """The tool as JSON for `azure_functions` of an agent's entry."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
            "input_queue": self.input_queue.queue_name,
            "output_queue": self.output_queue.queue_name,
        }

    @property
    def definitions(self) -> list[AzureFunctionToolDefinition]:
        """For `create_agent(tools=...)` of `azure.ai.agents.AgentsClient`."""
        from azure.ai.agents import models

        tool = models.AzureFunctionTool(
            name=self.name,
            description=self.description,
            parameters=_plain(self.parameters),
            input_queue=_queue(self.input_queue),
            output_queue=_queue(self.output_queue),
        )
        return list(tool.definitions)


def _plain(parameters: Mapping[str, JsonValue]) -> dict[str, Any]:
    return dict(parameters)


def _queue(queue: AzureFunctionStorageQueue) -> Any:
    from azure.ai.agents import models

    return models.AzureFunctionStorageQueue(
        queue_name=queue.queue_name, storage_service_endpoint=queue.storage_service_endpoint
    )
