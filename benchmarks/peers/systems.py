"""The systems that are compared: what each is installed from, and in what it differs from the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table.

    Attributes:
        adapter: Module in `benchmarks.peers.adapters`.
        requirement: What is installed from the package index; empty for AOS, which runs in this interpreter.
        imports: What a program that uses it imports first.
        keeps: Where a turn and its conversation are when it has ended.
        traced: What of telemetry runs in the turn.
        note: What else is not equal.
        python: The interpreter that it needs, as `major.minor`; empty for the one that AOS runs on.
        storage: Whether it needs Azurite.
    """

    name: str
    adapter: str
    requirement: str
    imports: str
    keeps: str
    traced: str
    note: str = ""
    python: str = ""
    storage: bool = False

    @property
    def key(self) -> str:
        """Folder of its environment: the distribution's name, or nothing for AOS."""
        return self.requirement.partition("==")[0]


SYSTEMS = (
    System(
        "AOS, stores in memory",
        "aos",
        "",
        "import aos.kernel.kernel, aos.agents.directory",
        "operation, conversation and outbox, in memory",
        "no",
        "The tool is answered by an event, as over the bus, not by a call; the agent is bound before.",
    ),
    System(
        "AOS, Table storage (Azurite)",
        "aos_storage",
        "",
        "import aos.kernel.kernel, aos.agents.directory, aos.storage.conversations",
        "operation, conversation and outbox, in Table storage: survives kill -9",
        "no",
        "Its CPU is that of the SDK's requests; Azurite runs on the same cores.",
        storage=True,
    ),
    System(
        "agent-framework-core",
        "agent_framework",
        "agent-framework-core==1.23.0",
        "from agent_framework import Agent",
        "nothing",
        "layer present, no exporter",
    ),
    System(
        "autogen-core",
        "autogen",
        "autogen-core==0.7.5",
        "import autogen_core",
        "nothing",
        "layer present, no exporter",
        "The tool is an agent of its own, reached by a message.",
    ),
    System("agno", "agno", "agno==3.1.10", "from agno.agent import Agent", "nothing", "no"),
    System("langgraph", "langgraph", "langgraph==1.2.22", "from langgraph.graph import StateGraph", "nothing", "no"),
    System(
        "langgraph, InMemorySaver",
        "langgraph_saved",
        "langgraph==1.2.22",
        "from langgraph.graph import StateGraph",
        "checkpoint per step, in memory",
        "no",
    ),
    System(
        "openai-agents", "openai_agents", "openai-agents==0.24.0", "from agents import Agent, Runner", "nothing", "off"
    ),
    System(
        "pydantic-ai",
        "pydantic_ai",
        "pydantic-ai-slim==2.68.0",
        "from pydantic_ai import Agent",
        "nothing",
        "no",
        "On its own FunctionModel.",
    ),
    System(
        "google-adk",
        "google_adk",
        "google-adk==2.13.0",
        "from google.adk.agents import LlmAgent",
        "session in memory, made and deleted per turn",
        "layer present, no exporter",
        "An agent includes its runner.",
    ),
    System(
        "azurefunctions-agents-runtime",
        "functions_agents",
        "azurefunctions-agents-runtime==0.1.0b17",
        "from azure_functions_agents import create_function_app",
        "history in a local file per session; each message a new session",
        "layer present, no exporter",
        "Builds its agent anew per message; building its model client per message as well is left out.",
        python="3.13",
    ),
)
