"""Messages that are about the talk itself and need no tool."""

from __future__ import annotations

import re

GREETING = re.compile(
    r"^\s*(?:hi|hello|hey|good (?:morning|afternoon|evening)|greetings)\b[\s,!.\w]{0,20}$", re.IGNORECASE
)
THANKS = re.compile(
    r"^\s*(?:thanks|thank you|great|perfect|nice|cool|ok|okay|understood|got it)\b[^?]*$", re.IGNORECASE
)
IDENTITY = re.compile(
    r"\b(?:who are you|what are you(?! (?:going|doing))|what(?:'s| is) your (?:name|role|purpose|job)"
    r"|introduce yourself|your purpose|about yourself)\b",
    re.IGNORECASE,
)
ABILITY = re.compile(
    r"\b(?:what can you do|how can you help|what tools|which tools|your tools|your capabilities|what do you do)\b",
    re.IGNORECASE,
)
RECALL = re.compile(
    r"\b(?:what|which|when|who|where|how)\b[^?]*\b(?:did|have|had) (?:i|we)\b[^?]*"
    r"\b(?:say|said|tell|told|mention|mentioned|ask|asked|talk|discuss|discussed|write|wrote)\b"
    r"|\bdo you remember\b|\bremind me\b|\bwhat(?:'s| is| was| are| were) my\b"
    r"|\b(?:i|we) (?:said|told you|mentioned)\b[^.]*\?",
    re.IGNORECASE,
)

FOLLOW_UP = re.compile(r"^\s*(?:and|what about|how about|also|same for|or)\b(?:\W*[\w'-]+){0,8}\W*$", re.IGNORECASE)
STATEMENT = re.compile(
    r"^\s*(?:(?:my|our|it|this|that|i|we|the)\b.*?\b(?:is|are|was|were|am|like|prefer|love|hate)\b"
    r"|(?:i'm|we're|it's|that's)\b|(?:please\s+)?(?:remember|note|keep in mind)\b|call me\b)",
    re.IGNORECASE | re.DOTALL,
)


def is_small_talk(message: str) -> bool:
    """Whether a message greets, thanks, asks who answers, or asks what was said before."""
    return any(pattern.search(message) for pattern in (GREETING, THANKS, IDENTITY, ABILITY, RECALL))
