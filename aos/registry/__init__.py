"""The registries: which agents and which MCP servers exist, read from JSON documents and kept up to date."""
