"""Traces, metrics and the ids in logs. What is on the way of a message imports `opentelemetry-api` alone."""
