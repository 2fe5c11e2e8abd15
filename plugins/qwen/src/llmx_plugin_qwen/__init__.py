"""Qwen families for llmx."""
