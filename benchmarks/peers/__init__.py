"""AOS beside other agent frameworks: the same scripted model and tool, each in an environment of its own."""
