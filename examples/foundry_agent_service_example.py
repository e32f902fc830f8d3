"""The Foundry Agent Service through `aos.ml` and `aos.orchestration`: messages, threads, tools, metrics.

    python examples/foundry_agent_service_example.py

needs FOUNDRY_AGENT_SERVICE_ENDPOINT and FOUNDRY_AGENT_SERVICE_API_KEY (or AZURE_AI_PROJECT_ENDPOINT and
AZURE_AI_API_KEY, which `python -m emulators up` prints for the local stack).
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aos.errors import AosError
from aos.ml import FoundryAgentServiceClient, FoundryAgentServiceConfig, FoundryResponse
from aos.orchestration import ModelOrchestrator, ModelType


def show(title: str, response: FoundryResponse) -> None:
    """Prints an answer, or why there is none."""
    print(f"\n== {title}")
    if not response.success:
        print(f"failed ({response.metadata['error_code']}): {response.error}")
        return
    print(response.content)
    print(f"-- {response.model}, {response.usage.get('total_tokens')} tokens, tools: {response.tools_used or 'none'}")


async def one_message(client: FoundryAgentServiceClient) -> None:
    """A question to the deployment of a domain; without one, to the base model, which is told the domain."""
    response = await client.send_message("Which three priorities should a young company have?", domain="ceo")
    show("One message", response)
    print(f"-- own deployment of the domain: {response.metadata.get('domain_deployment')}")


async def a_thread(client: FoundryAgentServiceClient) -> None:
    """Questions that build on each other, in a thread that the service keeps."""
    thread_id = await client.create_thread(metadata={"purpose": "financial_analysis", "department": "finance"})
    try:
        for question in ("Our revenue was 2.3 million in Q3 and 2.4 million in Q2.", "By how much did it fall?"):
            show(question, await client.send_message(question, thread_id=thread_id, domain="cfo"))
        info = await client.get_thread_info(thread_id)
        print(f"-- {info.message_count} messages in {info.thread_id}, last used {info.last_accessed}, {info.metadata}")
    finally:
        print(f"-- deleted: {await client.delete_thread(thread_id)}")


async def tools(client: FoundryAgentServiceClient) -> None:
    """Tools that the service runs itself."""
    response = await client.send_message(
        "Analyze these sales by month and draw them: 10, 12, 9, 15.",
        domain="sales_analytics",
        tools=["data_analysis", "visualization"],
    )
    show("Tools of the service", response)


async def own_settings(config: FoundryAgentServiceConfig) -> None:
    """Short and sober answers."""
    sober = dataclasses.replace(config, temperature=0.1, max_tokens=256, timeout=90, max_retries=5)
    async with FoundryAgentServiceClient(sober) as client:
        show("Other settings", await client.send_message("Define operating profit in a sentence."))


async def orchestrator() -> None:
    """The best model that is configured and healthy, and several questions at once."""
    async with ModelOrchestrator() as models:
        model_type = await models.select_optimal_model(domain="leadership")
        result = await models.process_model_request(
            model_type=model_type,
            domain="leadership",
            user_input="What are the top 3 strategic priorities?",
            conversation_id="example-001",
        )
        print(f"\n== Orchestrator: {result['model_type']}\n{result['reply']}\n-- thread {result['thread_id']}")
        batch = await models.batch_process_requests(
            [
                {
                    "model_type": ModelType.FOUNDRY_AGENT_SERVICE,
                    "domain": domain,
                    "user_input": "Introduce yourself in a sentence.",
                    "conversation_id": f"example-{domain}",
                }
                for domain in ("ceo", "cfo", "cto")
            ]
        )
        print(f"-- {batch['successful_requests']} of {batch['total_requests']} answered")


async def main() -> int:
    """Runs all examples; 1 if the service cannot be used."""
    config = FoundryAgentServiceConfig.from_env()
    try:
        async with FoundryAgentServiceClient(config) as client:
            if not await client.health_check():
                print("Foundry Agent Service does not answer.", file=sys.stderr)
                return 1
            await one_message(client)
            await a_thread(client)
            await tools(client)
            await own_settings(config)
            await orchestrator()
            metrics = client.get_metrics()
    except AosError as error:
        print(f"{error.title} {error.detail}", file=sys.stderr)
        return 1
    print(f"\n== Metrics: {metrics['successful_requests']} of {metrics['total_requests']} requests succeeded,")
    print(f"   {metrics['average_latency']:.3f} s on average, {metrics['total_tokens_used']} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
