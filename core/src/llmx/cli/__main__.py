"""``python -m llmx.cli``."""

from llmx.cli import main

main()
