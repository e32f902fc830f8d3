"""A company's ledger as an MCP server: profit and loss, budgets, headcount and customers of two years, in SQLite."""
