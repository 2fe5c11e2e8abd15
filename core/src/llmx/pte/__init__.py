"""What is in a ``.pte``, read from its bytes: neither torch nor the runtime is needed."""

from llmx.pte.contents import Contents, read_contents

__all__ = ["Contents", "read_contents"]
