"""An exported model behind HTTP, in the form of OpenAI's API; needs ``llmx-core[serve]``."""
