"""Is an exported model what it claims to be? Checks of a ``.pte`` in the real runner."""
