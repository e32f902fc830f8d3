"""`azure_functions` of an agent's entry: functions that are called over a pair of storage queues."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from aos.registry.entries import Finding, JsonObject, RegistryModel, Text
from aos.registry.schemas import schema_fault

CORRELATION = "CorrelationId"
"""The field that AOS adds to the arguments and finds again in the reply."""
OUTPUT_URI = "outputqueueuri"
"""A parameter of this name is given the address of the output queue by AOS; the model does not see it."""

_RULE = r"[a-z0-9](-?[a-z0-9])*"
# A function that fails again and again has its message moved to `{input_queue}-poison`, of at most 63 characters.
InputQueue = Annotated[str, Field(pattern=f"^{_RULE}$", min_length=3, max_length=56)]
OutputQueue = Annotated[str, Field(pattern=f"^{_RULE}$", min_length=3, max_length=63)]


class AzureFunction(RegistryModel):
    """A function as a tool. Its parameters are a JSON Schema of type object.

    Attributes:
        timeout_seconds: How long the agent waits for a reply; the model is told when none came.
        approval: Whether a person has to approve each call.
        execution: Who calls the function: AOS, or the service within its run.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text = ""
    parameters: JsonObject
    input_queue: InputQueue | None = None
    output_queue: OutputQueue | None = None
    timeout_seconds: Annotated[float, Field(strict=True, gt=0, le=3600)] = 300
    approval: Literal["never", "always"] = "never"
    execution: Literal["aos", "service"] = "aos"

    @property
    def queue_in(self) -> str:
        """Where calls go: `azure-function-{name}-input` unless the entry says otherwise."""
        return self.input_queue or default_queue(self.name, "input")

    @property
    def queue_out(self) -> str:
        """Where replies come from: `azure-function-{name}-output` unless the entry says otherwise."""
        return self.output_queue or default_queue(self.name, "output")

    def faults(self) -> Iterator[Finding]:
        if (fault := schema_fault(self.parameters)) is not None:
            yield ("parameters", *fault[0]), fault[1]
        properties = self.parameters.get("properties")
        if isinstance(properties, dict) and CORRELATION in properties:
            yield ("parameters", "properties", CORRELATION), "AOS gives this field to each call; name yours otherwise."
        for key, queue, most in (("input_queue", self.queue_in, 56), ("output_queue", self.queue_out, 63)):
            if getattr(self, key) is None and (len(queue) > most or not re.fullmatch(_RULE, queue)):
                yield (key,), f"{queue!r}, made from the name, cannot name a storage queue: give the queue's name here."
        if self.execution == "service" and self.approval == "always":
            yield ("approval",), 'The service does not ask before it calls: leave `execution` at "aos" for approvals.'
        if self.queue_in == self.queue_out:
            yield ("output_queue",), "It is the input queue too: calls would be taken for replies."


def default_queue(name: str, direction: Literal["input", "output"]) -> str:
    """The queue of a function by its name; underscores and capitals become what queues may be named."""
    return f"azure-function-{name.lower().replace('_', '-')}-{direction}"


def functions_faults(functions: tuple[AzureFunction, ...]) -> Iterator[Finding]:
    """What is wrong with `azure_functions` of an agent."""
    first: dict[str, int] = {}
    for index, function in enumerate(functions):
        for at, detail in function.faults():
            yield ("azure_functions", index, *at), detail
        if (taken := first.setdefault(function.name, index)) != index:
            yield ("azure_functions", index, "name"), f"The name is taken by /azure_functions/{taken} of this agent."
