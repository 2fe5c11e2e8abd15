"""``export.foundation_weights_file`` and ``lora_weights_file``: weights in files of their own."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from llmx.errors import ConfigError

if TYPE_CHECKING:
    from llmx.config.schema import ExportJob, ExportOptions

SUFFIX = ".ptd"
FOUNDATION, LORA = "export.foundation_weights_file", "export.lora_weights_file"


def parse_data_file(value: Any) -> str | None:
    """A file's name with its suffix, which may be left out.

    Raises:
        ConfigError: it is no name, or leads into another folder.
    """
    if value is None:
        return None
    if not isinstance(value, str) or PurePath(value).name != value:
        raise ConfigError(
            f"{value!r} is not the name of a weight file",
            remedy=f"give a name alone, such as weights{SUFFIX}; it will lie beside the program",
        )
    return value if value.endswith(SUFFIX) else f"{value}{SUFFIX}"


def data_names(export: ExportOptions) -> list[str]:
    """Names of the files beside the program that hold weights of it."""
    names = (export.foundation_weights_file, export.lora_weights_file)
    return list(dict.fromkeys(name for name in names if name is not None))


def has_data_files(export: ExportOptions) -> bool:
    """Whether weights leave the program."""
    return bool(data_names(export))


def check_data_files(job: ExportJob) -> None:
    """Raise :class:`ConfigError` for weight files that cannot be made."""
    if not has_data_files(job.export):
        return
    key = FOUNDATION if job.export.foundation_weights_file is not None else LORA
    contradicting = {
        "export.export_only": job.export.export_only,
        "debug.generate_etrecord": job.debug.generate_etrecord,
        "quantization.pt2e_quantize": job.quantization.pt2e_quantize is not None,
    }
    for name in (name for name, given in contradicting.items() if given):
        raise ConfigError(f"{key} contradicts {name}", remedy="leave one of them out")
