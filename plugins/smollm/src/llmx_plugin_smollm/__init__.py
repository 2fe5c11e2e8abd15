"""SmolLM families for llmx."""
