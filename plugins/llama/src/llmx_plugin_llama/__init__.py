"""Llama families for llmx."""
