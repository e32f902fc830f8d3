"""A function app that is a tool of agents: it works out what a loan costs, called over a pair of storage queues."""
