"""A business calendar over MCP: holidays and business days, computed by each calendar's own rules."""
