"""Which messages an agent takes that name no agent: `metadata.routing` of its entry.

`{keywords?: [...], prefixes?: [...], default?: true}`. Keywords are whole words, or several; neither they nor prefixes
look at capitals. `default` names the agent that takes what the model finds nobody for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from aos.registry.entries import Finding

MOST = 64
Words = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=100)]


class RoutingRules(BaseModel):
    """Rules of one agent.

    Attributes:
        keywords: One of them somewhere in the message.
        prefixes: One of them at its beginning.
        default: It takes what fits nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keywords: Annotated[tuple[Words, ...], Field(max_length=MOST)] = ()
    prefixes: Annotated[tuple[Words, ...], Field(max_length=MOST)] = ()
    default: Annotated[bool, Field(strict=True)] = False

    def match(self, message: str) -> str | None:
        """The rule that takes the message, in words; None: no rule does."""
        text = message.strip().casefold()
        for prefix in self.prefixes:
            if text.startswith(prefix.casefold()):
                return f"it begins with {prefix!r}"
        for keyword in self.keywords:
            if re.search(rf"(?<!\w){re.escape(keyword.casefold())}(?!\w)", text):
                return f"it holds the keyword {keyword!r}"
        return None


NONE = RoutingRules()


def routing_rules(metadata: Mapping[str, JsonValue]) -> RoutingRules:
    """The rules of an agent; `routing_faults` says first whether they are valid."""
    given = metadata.get("routing")
    return NONE if given is None else RoutingRules.model_validate(given)


def routing_faults(metadata: Mapping[str, JsonValue]) -> Iterator[Finding]:
    """What is wrong with `metadata.routing`."""
    try:
        routing_rules(metadata)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            if details["type"] == "model_type":
                what = "It must be an object with `keywords`, `prefixes` or `default`"
            else:
                what = details["msg"].replace("Input", "It", 1)
            yield ("metadata", "routing", *details["loc"]), what + "."
