"""kvtier for inference engines: client of the agent, connectors for vLLM and SGLang. Nothing is imported before it is used."""
