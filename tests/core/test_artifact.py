"""An artifact appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llmx import Artifact, ArtifactError
from llmx.artifact import MANIFEST_NAME, check_output, staged, write_manifest


def write(folder: Path, text: str = "program") -> None:
    (folder / "model.pte").write_text(text)
    write_manifest(folder, {"program": {"file": "model.pte"}, "tokenizer": None})


def test_a_staged_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged(target) as scratch:
        write(scratch)
        assert not target.exists()
    assert Artifact.open(target).program.read_text() == "program"
    assert list(tmp_path.iterdir()) == [target]


def test_it_has_the_permissions_of_a_new_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as scratch:
        write(scratch)
    (tmp_path / "plain").mkdir()
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged(tmp_path / "out") as scratch:
        write(scratch)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_keeps_the_artifact_that_was_there(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as scratch:
        write(scratch, "old")
    with pytest.raises(RuntimeError), staged(tmp_path / "out") as scratch:
        write(scratch, "new")
        raise RuntimeError
    assert Artifact.open(tmp_path / "out").program.read_text() == "old"


def test_a_new_artifact_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as scratch:
        write(scratch, "old")
        (scratch / "tokenizer.json").write_text("{}")
    with staged(tmp_path / "out") as scratch:
        write(scratch, "new")
    assert Artifact.open(tmp_path / "out").program.read_text() == "new"
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="No space left") as raised,
        staged(tmp_path / "out") as scratch,
    ):
        (scratch / "model.pte").symlink_to("/dev/full")
        (scratch / "model.pte").write_text("x" * 100_000)
    assert raised.value.remedy is not None
    assert list(tmp_path.iterdir()) == []


def test_folders_with_other_peoples_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("mine")
    with pytest.raises(ArtifactError, match="did not write"):
        check_output(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        check_output(tmp_path / "out")


def test_new_empty_and_own_folders_are_accepted(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    with staged(tmp_path / "own") as scratch:
        write(scratch)
    check_output(tmp_path / "own")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_found_out_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot write"):
        check_output(tmp_path / "out")


def test_a_place_below_a_file_is_found_out_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        check_output(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "cannot be read"), ("[]", "not of format"), ('{"format": 99}', "not of format")],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ArtifactError, match=problem):
        Artifact.open(tmp_path)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an exported model"):
        Artifact.open(tmp_path)
