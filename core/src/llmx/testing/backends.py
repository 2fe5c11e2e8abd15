"""What every backend has to get right, as tests that a backend's author inherits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from llmx.artifact import Artifact
from llmx.config import ExportJob
from llmx.config.backends import backend_keys
from llmx.config.loading import load_job
from llmx.errors import ConfigError
from llmx.hookspecs import BackendSpec
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod
from llmx.testing.tiny import eager_model, export_anew, tiny_job, usual_family

Options = Mapping[str, Any]
LISTING = """
import sys
from llmx.plugins import load
backend = load(None, sys.argv[1]).backend
backend.options(), backend.recipes()
print(*(each for each in ("torch", "executorch") if each in sys.modules))
"""


class BackendConformance:
    """Subclass this as ``Test…``; models are those of any installed family.

    Attributes:
        backend: name of the backend.
        exports: options of the exports to be made, as ``ExportJob.create`` takes them, by a name
            of one's choice. The first may be ``{}``, the recipe ``default``.
        shape: fields of the tiny model's ``config.json``, beside ``tiny.SHAPE``.
        tolerance: of a program's logits, over the deviation of the eager model's; by name of the
            export, where it is not 1e-4.
        delegated: the least share of a graph's nodes that delegates take, from 0 to 1.
        refusals: options that ``check`` refuses, and what the message says (a regular expression).
    """

    backend: str
    exports: Mapping[str, Options] = MappingProxyType({"default": {}})
    shape: Options = MappingProxyType({})
    tolerance: Mapping[str, float] = MappingProxyType({})
    delegated: float = 0.5
    refusals: Mapping[str, tuple[Options, str]] = MappingProxyType({})

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "llmx_lowered" in metafunc.fixturenames:
            names = list(self.exports)
            metafunc.parametrize("llmx_lowered", names, indirect=True, scope="class")
        if "refusal" in metafunc.fixturenames:
            metafunc.parametrize("refusal", list(self.refusals))
        if "recipe" in metafunc.fixturenames:
            metafunc.parametrize("recipe", list(self.hooks().recipes()))

    @classmethod
    def hooks(cls) -> BackendSpec:
        """The backend's hooks over core's defaults."""
        return load(None, cls.backend).backend

    @classmethod
    def job(cls, folder: Path, **options: Any) -> ExportJob:
        """A job for a tiny model of an installed family; skips where there is none."""
        family = usual_family()
        if family is None:
            pytest.skip("no family is installed whose models could be lowered")
        return tiny_job(family, folder, cls.shape, backend=cls.backend, **options)

    @classmethod
    def make_lowered(cls, name: str, folder: Path) -> Lowered:
        """The export of that name."""
        artifact = export_anew(cls.job(folder, **cls.exports[name]))
        return Lowered(name, artifact, cls.tolerance.get(name, 1e-4))

    # What listings and configurations ask

    def test_listings_need_no_torch(self) -> None:
        command = [sys.executable, "-c", LISTING, self.backend]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert result.returncode == 0, result.stderr
        assert not result.stdout.split(), "import these inside functions, not at the top"

    def test_every_option_is_explained_and_has_a_default(self) -> None:
        for key in backend_keys(self.backend).values():
            assert key.doc, f"{key.name} has no doc in its metadata"
            assert key.default is not attrs.NOTHING, f"{key.name} has no default"

    def test_options_survive_being_written_and_read(self, tmp_path: Path) -> None:
        job = self.job(tmp_path)
        changed = {
            key.name: value
            for key in backend_keys(self.backend).values()
            if key.field != "enabled"
            for value in _another(key.type, key.choices, key.default)
        }
        for options in ({}, changed):
            (tmp_path / "before.json").write_text(json.dumps(job.to_dict()), encoding="utf-8")
            job = load_job(config=tmp_path / "before.json", settings=options).job
            (tmp_path / "after.json").write_text(json.dumps(job.to_dict()), encoding="utf-8")
            assert load_job(config=tmp_path / "after.json").job == job
        for name, value in changed.items():
            assert getattr(job.backend.options, name.rpartition(".")[2]) == value

    def test_a_recipe_is_accepted(self, recipe: str, tmp_path: Path) -> None:
        job = self.job(tmp_path, recipe=recipe)
        load(job.base.model_class, self.backend).backend.check(job=job)

    def test_what_it_cannot_do_is_refused(self, refusal: str, tmp_path: Path) -> None:
        options, message = self.refusals[refusal]
        with pytest.raises(ConfigError, match=message) as raised:
            self.hooks().check(job=self.job(tmp_path, **options))
        assert raised.value.remedy, "say what to do instead"
        assert "\n" not in raised.value.message

    # What is lowered

    def test_enough_is_delegated(self, llmx_lowered: Lowered) -> None:
        delegation = llmx_lowered.artifact.manifest["delegation"]
        taken, left = delegation["delegated_nodes"], delegation["other_nodes"]
        share = taken / (taken + left)
        assert share >= self.delegated, (
            f"{share:.0%} of {taken + left} nodes are delegated; left are "
            + ", ".join(f"{row['operator']} ({row['calls']})" for row in delegation["outside"])
        )

    def test_every_export_says_whether_it_was_tried(self, llmx_lowered: Lowered) -> None:
        manifest, reason = llmx_lowered.artifact.manifest, self.hooks().runtime()
        if reason is None:
            assert manifest["checks"]
            assert all(each["passed"] for each in manifest["checks"])
        else:
            assert manifest["checks"] == []
            assert any(reason in note for note in manifest["notes"])

    @torch.no_grad()
    def test_a_program_computes_what_its_eager_model_does(self, llmx_lowered: Lowered) -> None:
        reason = self.hooks().runtime()
        if reason is not None:
            pytest.skip(reason)
        program, model = llmx_lowered.program(), llmx_lowered.eager()
        for start, tokens in llmx_lowered.calls():
            inputs = (tokens, torch.tensor([start])) if llmx_lowered.cached else (tokens,)
            expected, actual = model(*inputs).float(), program(*inputs).float()
            difference = float((actual - expected).abs().max() / expected.std())
            assert difference <= llmx_lowered.tolerance, (
                f"logits behind tokens {start} to {start + tokens.shape[1] - 1} differ by "
                f"{difference:.2g} of their deviation"
            )


@attrs.frozen
class Lowered:
    """A tiny model's export, and how far its program may be from the eager model."""

    name: str
    artifact: Artifact
    tolerance: float

    @property
    def cached(self) -> bool:
        """Whether the program keeps what it was given."""
        return bool(self._model_options["use_kv_cache"])

    @property
    def _model_options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self.artifact.manifest["config"]["model"]
        return options

    def program(self) -> ProgramMethod:
        return ProgramMethod(self.artifact.program)

    def eager(self) -> nn.Module:
        return eager_model(self.artifact)

    def calls(self) -> Iterator[tuple[int, Tensor]]:
        """Position and tokens [1, S] of calls: a text in pieces, another one, the longest call."""
        generator = torch.Generator().manual_seed(5)
        vocabulary = self.artifact.manifest["model"]["params"]["vocab_size"]
        dynamic = self._model_options["enable_dynamic_shape"]
        longest = self.artifact.manifest["config"]["export"]["max_seq_length"] if dynamic else 1
        pieces = [20, 1, 17, 1, 1] if dynamic else [1] * 12
        for lengths in (pieces, pieces[1:4], [longest]):
            start = 0
            for length in (min(each, longest) for each in lengths):
                tokens = torch.randint(vocabulary, (1, length), generator=generator)
                yield (start if self.cached else 0), tokens
                start += length


def _another(kind: Any, choices: tuple[str, ...], default: Any) -> Iterator[Any]:
    """A value that is not the default, where any value of the type fits."""
    if kind is bool:
        yield not default
    elif kind is int:
        yield (default or 0) + 1
    elif choices and kind is not None:
        yield from [choice for choice in choices if choice != default][:1]
