"""Phi families for llmx."""
