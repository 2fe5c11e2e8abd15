"""ExecuTorch's ETRecord: what links the instructions of a program to the model's source.

An unfinished lowering keeps its record in an attribute that is internal to ExecuTorch;
``tests/reports/test_profile.py`` fails where that changes.
"""

from __future__ import annotations

from collections.abc import Callable

from executorch.exir import EdgeProgramManager
from torch.export import ExportedProgram


def carry_record(
    template: EdgeProgramManager,
    whole: EdgeProgramManager,
    repeat: Callable[[ExportedProgram], ExportedProgram],
) -> None:
    """Give ``whole`` the record of ``template``, if it has one, with all layers.

    Args:
        repeat: makes all layers of the few in a program before delegation.
    """
    record = template._etrecord
    if record is not None:
        # It brings pandas: a quarter of a second, and 66 MB that every export would hold.
        from executorch.devtools.etrecord import ETRecord

        whole._etrecord = ETRecord(edge_dialect_program=repeat(record.edge_dialect_program))
