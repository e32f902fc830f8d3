"""The end of the older generation of the Foundry Agent Service (assistants, threads, runs).

Source: "Agents (classic) are now deprecated and will be retired on March 31, 2027",
https://learn.microsoft.com/azure/foundry-classic/agents/whats-new
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime

from aos.errors import SettingError
from aos.kernel.clock import Clock

log = logging.getLogger("aos.foundry")

RETIREMENT = date(2027, 3, 31)


def check_retirement(clock: Clock, *, forced: bool) -> None:
    """Warns that the generation ends; after its end refuses it.

    Args:
        forced: Setting `FOUNDRY_THREADS_AFTER_RETIREMENT`.

    Raises:
        SettingError: It has ended, and is not forced.
    """
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    remedy = "Set FOUNDRY_API=responses; `python -m aos foundry migrate --all` takes the conversations along."
    if today <= RETIREMENT:
        days = (RETIREMENT - today).days
        log.warning("FOUNDRY_API=threads: this API retires on %s, in %d days. %s", RETIREMENT, days, remedy)
    elif forced:
        log.warning("FOUNDRY_API=threads: this API retired on %s; it is used because the setting says so.", RETIREMENT)
    else:
        raise SettingError(
            f"FOUNDRY_API=threads: this API of the Foundry Agent Service retired on {RETIREMENT}. {remedy} "
            "FOUNDRY_THREADS_AFTER_RETIREMENT=true uses it all the same."
        )
