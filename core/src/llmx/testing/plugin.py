"""The pytest plugin: an option, a fixture, and a table of what the conformance tests measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from attrs import frozen

ALL_SIZES = "--llmx-export-all"


COMPARED = ("short texts", "long texts", "program")


@frozen
class Measured:
    """The largest difference of logits from the reference, for one size of a family.

    ``what`` is one of ``COMPARED``; ``parameters`` counts those of the published size.
    """

    family: str
    size: str
    parameters: int
    what: str
    difference: float


Record = Callable[[Measured], None]

_MEASURED = pytest.StashKey[list[Measured]]()
_FROM_WORKER = "llmx_measured"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llmx", "conformance of model families")
    group.addoption(
        ALL_SIZES,
        action="store_true",
        help="export every size of a family to a program, not only the default one",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Failing comparisons shall show their values, as in a test module.
    pytest.register_assert_rewrite("llmx.testing.conformance", "llmx.testing.backends")
    config.stash[_MEASURED] = []


@pytest.fixture(scope="session")
def llmx_record(pytestconfig: pytest.Config) -> Record:
    """Note a measurement for the table at the end of the run."""
    return pytestconfig.stash[_MEASURED].append


@pytest.fixture(scope="class")
def llmx_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A size of the family whose tests run, as ``conformance.Case``; made once for all tests."""
    return request.cls.make_case(request.param, tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="class")
def llmx_scaled_case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The same for the sizes whose rope is scaled; one layer, as long texts take long."""
    return request.cls.make_case(request.param, tmp_path_factory.mktemp("scaled"), n_layers=1)


@pytest.fixture(scope="class")
def llmx_exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A size as a program, as ``conformance.ExportedCase``; exported once for all tests."""
    return request.cls.make_exported_case(request.param, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="class")
def llmx_lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An export of the backend whose tests run, as ``backends.Lowered``; made once."""
    return request.cls.make_lowered(request.param, tmp_path_factory.mktemp("lowered"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # In a worker of pytest-xdist: what it measured goes to the process that prints the table.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_FROM_WORKER] = [attrs.astuple(each) for each in session.config.stash[_MEASURED]]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A hook of pytest-xdist: a worker has finished."""
    rows = getattr(node, "workeroutput", {}).get(_FROM_WORKER, ())
    node.config.stash[_MEASURED].extend(Measured(*row) for row in rows)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured = config.stash[_MEASURED]
    if not measured:
        return
    terminalreporter.section("llmx: largest difference of logits from the reference, fp32")
    rows: list[tuple[str, ...]] = [("family", "size", "parameters", *COMPARED)]
    for (family, size, parameters), differences in _by_size(measured).items():
        cells = (f"{differences[what]:.1e}" if what in differences else "-" for what in COMPARED)
        rows.append((family, size, f"{parameters:,}", *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())


def _by_size(measured: list[Measured]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The worst of each kind of comparison, by family, sizes in the order in which they came."""
    table: dict[tuple[str, str, int], dict[str, float]] = {}
    for each in measured:
        differences = table.setdefault((each.family, each.size, each.parameters), {})
        differences[each.what] = max(each.difference, differences.get(each.what, 0.0))
    return dict(sorted(table.items(), key=lambda item: item[0][0]))
