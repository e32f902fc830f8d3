from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import aos.agents, aos.agents.directory, aos.custom.adapter, aos.system, runtime, runtime.agent_framework_runtime
assert not [name for name in sys.modules if name.partition(".")[0] in ("agent_framework", "openai")]
"""


def test_the_framework_is_imported_when_it_is_needed() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
