"""An emulator of the Microsoft Foundry Agent Service for the unmodified SDKs.

    python -m emulators.foundry --port P [--host H] [--model offline|URL] [--db FILE] [--deployments FILE]
        [--latency-ms N] [--on-disconnect finish|drop] [--context-window N]

or ``async with FoundryEmulator() as emulator:`` and then `emulator.endpoint`. Any bearer token or ``api-key`` is
accepted. The clients want: ``AIProjectClient(endpoint, credential, authentication_policy=HeadersPolicy({"api-key":
"local"}))``, as azure-core sends no tokens over plain HTTP, and ``project.get_openai_client(api_key="local")``.

For tests, below the server's root:

- ``POST /_emulator/faults {"status": 400-599, "times": 1, "retry_after"?: seconds, "path_contains"?: "", "method"?,
  "code"?, "message"?}`` answers the next ``times`` matching requests with that error, before anything is stored;
  ``GET`` lists what is left, ``DELETE`` clears it.
- ``GET /_emulator/calls`` gives ``{"counts": {"METHOD /path/{template}": n}, "recent": [{method, path, status, code,
  at, duration_ms}]}`` (the last 200); ``DELETE`` starts anew.
- lines ``@tool NAME {json}``, ``@say TEXT``, ``@fail REASON`` in a message direct the offline model
  (`emulators.foundry.offline.directives`).
"""

from __future__ import annotations

from emulators.foundry.server import FoundryEmulator

__all__ = ["FoundryEmulator"]
