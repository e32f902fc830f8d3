"""The custom runtime: agents without Foundry, through Microsoft Agent Framework and any OpenAI-compatible endpoint.

`AgentFrameworkAdapter` (`aos.custom.adapter`) is another `FoundryPort`; `USE_FOUNDRY_RUNTIME=false` chooses it.
"""
