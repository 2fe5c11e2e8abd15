"""Where time goes: an ETDump of the program, linked to layers and lines by the ETRecord."""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from llmx import Artifact, UserError
from llmx.cli import invoke
from llmx.report.profile import Profile, read_profile
from llmx.run.etdump import recorded_calls
from llmx.run.program import read_program
from tests.reports.conftest import LAYERS

CALLS = 4


@pytest.fixture(scope="module")
def etdump(told: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = tmp_path_factory.mktemp("etdump") / "device.etdp"
    program = read_program(told.program)
    with recorded_calls(program, tokens=1, context=8, calls=CALLS) as recorded:
        shutil.copyfile(recorded, kept)
    return kept


@pytest.fixture(scope="module")
def profile(told: Artifact, etdump: Path) -> Profile:
    return read_profile(etdump, told.folder / "etrecord.bin")


def test_the_record_tells_repeated_layers_apart(told: Artifact) -> None:
    from executorch.devtools.etrecord import parse_etrecord

    record = parse_etrecord(str(told.folder / "etrecord.bin"))
    handles: dict[str, set[int]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for node in record.edge_dialect_program.graph.nodes:
        paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        if node.op == "call_function" and (found := re.match(r"layers\.\d+", (paths or [""])[-1])):
            handles[found[0]].add(node.meta["debug_handle"])
            counts[found[0]] += 1
    assert set(counts) == {f"layers.{index}" for index in range(LAYERS)}
    # The last one computes one token only.
    assert len({counts[f"layers.{index}"] for index in range(LAYERS - 1)}) == 1
    assert sum(map(len, handles.values())) == len(set().union(*handles.values()))


def test_every_layer_has_its_time(profile: Profile) -> None:
    rows = profile.by_layer()
    assert [row.name for row in rows] == [
        *(f"layer {index}" for index in range(LAYERS)), "outside layers",
    ]  # fmt: skip
    assert all(row.milliseconds > 0 for row in rows)
    assert len({row.calls for row in rows[1 : LAYERS - 1]}) == 1


def test_steps_make_up_the_call(profile: Profile) -> None:
    assert profile.calls == CALLS
    assert sum(row.milliseconds for row in profile.by_layer()) == pytest.approx(
        profile.milliseconds, rel=0.5
    )
    for rows in (profile.by_operator(), profile.by_layer()):
        assert sum(row.milliseconds for row in rows) == pytest.approx(
            sum(step.milliseconds for step in profile.steps), rel=0.2
        )


def test_steps_are_linked_to_layers_and_lines(profile: Profile) -> None:
    attention = [step for step in profile.steps if "custom_sdpa" in step.name]
    assert [step.layer for step in attention] == list(range(LAYERS))
    assert {step.source.file for step in attention if step.source} == {"llmx/model/kv_cache.py"}
    writes = [step.layer for step in profile.steps if "update_cache" in step.name]
    assert writes == [index for index in range(LAYERS) for _ in "kv"]
    for index in range(LAYERS):
        products = [step for step in profile.steps if step.delegate and step.layer == index]
        assert f"layers.{index}.feed_forward.down_proj" in {
            path for step in products for path in step.modules
        }


def test_delegates_tell_their_operators(profile: Profile) -> None:
    names = Counter(part.name for step in profile.steps for part in step.parts)
    products = sum(count for name, count in names.items() if "QB4W" in name)
    # Queries, keys and values at once, in the last layer apart; their output; gate, up and down.
    # The head has 8 bits.
    assert products == 5 * LAYERS + 2
    assert sum(count for name, count in names.items() if "QC8W" in name) == 1


def test_a_devices_record_is_read(
    told: Artifact, etdump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["profile", str(told.folder), "--etdump", str(etdump), "--debug"]) == 0
    printed = capsys.readouterr()
    assert re.match(rf"device\.etdp: \d+\.\d+ ms, median of {CALLS} calls\n", printed.out)
    for words in (f"layer {LAYERS - 1}", "llama::custom_sdpa.out", "llmx/model/feed_forward.py:"):
        assert words in printed.out
    assert printed.err == ""


@pytest.fixture
def alone(told: Artifact, tmp_path: Path) -> Path:
    """The program without anything beside it."""
    return Path(shutil.copyfile(told.program, tmp_path / "model.pte"))


def test_a_program_alone_is_profiled_by_operator(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["profile", str(alone), "--tokens", "16", "--calls", "2", "--debug"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("16 tokens after 24: ")
    assert "llama::custom_sdpa.out" in printed.out
    assert "layer 0" not in printed.out
    assert "debug.generate_etrecord=true" in printed.err


@pytest.mark.parametrize(
    ("tokens", "context", "message"),
    [(65, 0, "from 1 to 64 tokens"), (4, 62, "do not fit 64")],
)
def test_calls_that_the_program_does_not_take(
    told: Artifact, tokens: int, context: int, message: str
) -> None:
    program = read_program(told.program)
    with (
        pytest.raises(UserError, match=message),
        recorded_calls(program, tokens=tokens, context=context, calls=1),
    ):
        pass


def test_what_is_no_record_is_refused(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.etdp"
    broken.write_bytes(b"nothing of the kind" * 10)
    assert invoke(["profile", str(alone), "--etdump", str(broken)]) == 2
    assert "broken.etdp cannot be read" in capsys.readouterr().err
    assert invoke(["profile", str(alone), "--etdump", str(tmp_path / "none")]) == 2
