"""Which model stands behind the emulator."""

from __future__ import annotations

from emulators.foundry.model import Model
from emulators.foundry.offline import OfflineModel


def build_model(spec: str) -> Model:
    """``offline``, or the base URL of an OpenAI-compatible server, such as ``http://127.0.0.1:8000/v1``.

    Raises:
        ValueError: neither of the two.
    """
    if spec == "offline":
        return OfflineModel()
    if spec.startswith(("http://", "https://")):
        from emulators.foundry.forward import ForwardingModel  # openai takes half a second to import

        return ForwardingModel(spec)
    raise ValueError(f"model '{spec}': use 'offline' or the http(s) URL of an OpenAI-compatible server")
