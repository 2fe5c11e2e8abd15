"""What every model family has to get right, as tests that a family's author inherits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor

from llmx.artifact import Artifact
from llmx.checkpoint import TokenIds, WeightMap, plan
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.model.params import DecoderParams, ModelSize, PlainRope
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod
from llmx.testing.diagnosis import cause_of_difference, hint_for_tensors, hint_for_unused
from llmx.testing.eager import Loaded, load_eager, logits
from llmx.testing.endings import Endings, check_endings, choose_endings, make_it_spell
from llmx.testing.plugin import ALL_SIZES, Measured, Record
from llmx.testing.program import CALL, export_tiny, feed
from llmx.testing.reference import (
    N_LAYERS,
    VOCABULARY,
    hf_fields,
    meta_model,
    random_model,
    save_checkpoint,
    shrink,
)
from llmx.testing.shapes import full_size_checkpoint, meta_decoder_shapes

BOS, EOS = 256, (257, 258)
LONG = 4200  # tokens, past the 4096 at which scaled ropes usually begin to differ
CACHE = 128


@frozen
class Case:
    """A published size, its tiny likeness and the folder that this was saved to."""

    size: str
    published: ModelSize
    tiny: DecoderParams
    reference: Any
    folder: Path

    @torch.no_grad()
    def expected(self, tokens: Tensor) -> Tensor:
        """The reference's logits [S, vocab]."""
        found: Tensor = self.reference(tokens).logits[0]
        return found


@frozen
class ExportedCase:
    """A case whose checkpoint was exported, with an end token for each of some texts."""

    case: Case
    endings: Endings
    artifact: Artifact


class FamilyConformance:
    """Subclass this as ``Test…``; every test runs for every published size.

    Attributes:
        family: name of the family.
        model_type: its ``model_type`` in ``config.json``.
        extra_fields: fields of ``config.json`` that ``DecoderParams`` does not tell, such as
            ``{"use_sliding_window": False}``.
        published_counts: parameters by size, as a model card or index states them.
        exported_sizes: sizes for which a program is made, the slow part; ``None`` is the default
            size. ``--llmx-export-all`` takes all.
        tolerance: absolute and relative, of logits in fp32.
    """

    family: str
    model_type: str
    extra_fields: Mapping[str, Any] = MappingProxyType({})
    published_counts: Mapping[str, int] = MappingProxyType({})
    exported_sizes: Sequence[str] | None = None
    tolerance: float = 1e-4

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        sizes = self.hooks().sizes()
        scaled = [name for name, size in sizes.items() if size.params.rope_scaling != PlainRope()]
        every = metafunc.config.getoption(ALL_SIZES)
        chosen = list(sizes)[:1] if self.exported_sizes is None else self.exported_sizes
        exported = list(sizes) if every else list(chosen)
        if "size" in metafunc.fixturenames:
            metafunc.parametrize("size", list(sizes))
        cases = {"llmx_case": list(sizes), "llmx_scaled_case": scaled, "llmx_exported": exported}
        for fixture, names in cases.items():
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, names, indirect=True, scope="class")

    @classmethod
    def hooks(cls) -> FamilySpec:
        """The family's hooks over core's defaults."""
        return load(cls.family, None).family

    @classmethod
    def config(cls, params: DecoderParams) -> dict[str, Any]:
        """Fields of ``config.json`` for ``params``."""
        return {**hf_fields(params), **cls.extra_fields}

    @classmethod
    def shrink(cls, params: DecoderParams, n_layers: int) -> DecoderParams:
        """A tiny likeness of ``params``; families with parameters of their own shrink these too."""
        return shrink(params, n_layers=n_layers)

    @classmethod
    def make_case(cls, size: str, folder: Path, *, n_layers: int = N_LAYERS) -> Case:
        """The tiny likeness of a size, saved to ``folder``."""
        published = cls.hooks().sizes()[size]
        tiny = cls.shrink(published.params, n_layers)
        reference = random_model(cls.model_type, cls.config(tiny))
        save_checkpoint(reference, folder, eos=EOS, bos=BOS)
        return Case(size, published, tiny, reference, folder)

    @classmethod
    def make_exported_case(cls, size: str, folder: Path) -> ExportedCase:
        """The tiny likeness of a size as a program, made by the command line."""
        published = cls.hooks().sizes()[size]
        tiny = cls.shrink(published.params, 2)
        reference = random_model(cls.model_type, cls.config(tiny))
        make_it_spell(reference)
        endings = choose_endings(reference)
        save_checkpoint(reference, folder / "checkpoint", eos=endings.eos, bos=BOS)
        artifact = export_tiny(cls.family, folder / "checkpoint", folder / "program")
        case = Case(size, published, tiny, reference, folder / "checkpoint")
        return ExportedCase(case, endings, artifact)

    # What the table of sizes says

    def test_the_published_configuration_gives_the_table_of_sizes(self, size: str) -> None:
        from transformers import AutoConfig

        params = self.hooks().sizes()[size].params
        config = AutoConfig.for_model(self.model_type, **self.config(params)).to_dict()
        assert self.hooks().params_from_hf(config=config) == params

    def test_the_published_configuration_is_recognised(self, size: str) -> None:
        config = {"model_type": self.model_type, **self.config(self.hooks().sizes()[size].params)}
        level = self.hooks().match_config(config=config)
        if level is None:
            pytest.skip("the family does not implement match_config")
        assert level == 2
        assert self.hooks().match_config(config={**config, "model_type": "another"}) == 0

    def test_the_parameters_are_as_many_as_the_references(self, size: str) -> None:
        params = self.hooks().sizes()[size].params
        reference = meta_model(self.model_type, self.config(params))
        assert params.parameter_count == sum(each.numel() for each in reference.parameters())
        if size in self.published_counts:
            assert params.parameter_count == self.published_counts[size]

    def test_a_checkpoint_of_full_size_fits(self, size: str) -> None:
        hooks = self.hooks()
        params = hooks.sizes()[size].params
        checkpoint = full_size_checkpoint(meta_model(self.model_type, self.config(params)))
        converted = hooks.convert_weights(checkpoint=checkpoint, params=params)
        if not isinstance(converted, WeightMap):
            pytest.skip("the family converts weights itself")
        steps = plan(converted, checkpoint, meta_decoder_shapes(hooks, params))
        assert {step.source for step in steps} == set(checkpoint.tensors)

    def test_the_published_token_ids_are_in_the_vocabulary(self, size: str) -> None:
        ids = self.hooks().token_ids(checkpoint=None)
        vocabulary = self.hooks().sizes()[size].params.vocab_size
        everything = ids.eos if ids.bos is None else (*ids.eos, ids.bos)
        assert ids.eos
        assert all(0 <= each < vocabulary for each in everything)

    # What a checkpoint becomes

    @pytest.mark.parametrize("length", [1, 7, 100])
    def test_logits_equal_the_reference(
        self, llmx_case: Case, length: int, llmx_record: Record
    ) -> None:
        loaded = self.load(llmx_case, max_context_length=CACHE)
        tokens = _tokens(length)
        expected, actual = llmx_case.expected(tokens), logits(loaded.model, tokens, [length])
        self.record(llmx_record, llmx_case, "short texts", expected, actual)
        self.compare(loaded, tokens, [length], actual, expected)

    def test_chunks_and_single_tokens_equal_the_reference(self, llmx_case: Case) -> None:
        # Where a size has sliding windows, this goes three times round their rings.
        loaded = self.load(llmx_case, max_context_length=CACHE, longest_call=CALL)
        tokens, pieces = _tokens(100), [CALL, 9, *[1] * 20, *[CALL] * 4, 1]
        actual = logits(loaded.model, tokens, pieces)
        self.compare(loaded, tokens, pieces, actual, llmx_case.expected(tokens))

    def test_a_new_text_is_not_disturbed_by_an_older_one(self, llmx_case: Case) -> None:
        loaded = self.load(llmx_case, max_context_length=CACHE)
        logits(loaded.model, _tokens(100), [100])
        tokens, pieces = _tokens(7), [1, 4, 2]
        actual = logits(loaded.model, tokens, pieces)
        self.compare(loaded, tokens, pieces, actual, llmx_case.expected(tokens))

    def test_long_contexts_equal_the_reference(
        self, llmx_scaled_case: Case, llmx_record: Record
    ) -> None:
        loaded = self.load(llmx_scaled_case, max_context_length=LONG)
        tokens = _tokens(LONG)
        pieces = [600] * (LONG // 600)
        expected, actual = llmx_scaled_case.expected(tokens), logits(loaded.model, tokens, pieces)
        self.record(llmx_record, llmx_scaled_case, "long texts", expected, actual)
        self.compare(loaded, tokens, pieces, actual, expected)

    def test_the_parameters_are_the_checkpoints(self, llmx_case: Case) -> None:
        loaded = self.load(llmx_case, max_context_length=CACHE)
        assert loaded.params == llmx_case.tiny

    def test_every_stored_tensor_is_used(self, llmx_case: Case) -> None:
        loaded = self.load(llmx_case, max_context_length=CACHE)
        unused = set(loaded.checkpoint.tensors) - loaded.used
        assert not unused, hint_for_unused(unused)

    def test_token_ids_are_the_checkpoints_own(self, llmx_case: Case) -> None:
        checkpoint = self.load(llmx_case, max_context_length=CACHE).checkpoint
        assert self.hooks().token_ids(checkpoint=checkpoint) == TokenIds(bos=BOS, eos=EOS)

    def test_token_ids_are_the_published_ones_where_no_file_says_any(
        self, llmx_case: Case, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(llmx_case.folder, bare)
        (bare / "generation_config.json").unlink()
        config = json.loads((bare / "config.json").read_text(encoding="utf-8"))
        for key in ("eos_token_id", "bos_token_id"):
            config.pop(key, None)
        (bare / "config.json").write_text(json.dumps(config), encoding="utf-8")
        checkpoint = load_eager(self.hooks(), bare, max_context_length=CACHE).checkpoint
        assert self.hooks().token_ids(checkpoint=checkpoint) == self.hooks().token_ids(
            checkpoint=None
        )

    # What a program does

    def test_the_program_equals_the_reference(
        self, llmx_exported: ExportedCase, llmx_record: Record
    ) -> None:
        case, program = llmx_exported.case, ProgramMethod(llmx_exported.artifact.program)
        # One text after the other: the second must not be disturbed by the first.
        for tokens, pieces in (_tokens(45), [CALL, 9, *[1] * 7, CALL, 1]), (_tokens(7), [1, 4, 2]):
            ends, actual = feed(program, tokens, pieces=pieces)
            expected = case.expected(tokens)[ends]
            self.record(llmx_record, case, "program", expected, actual)
            torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)

    def test_generation_stops_at_every_end_token(self, llmx_exported: ExportedCase) -> None:
        check_endings(llmx_exported.artifact, llmx_exported.endings)

    def load(self, case: Case, **lengths: int) -> Loaded:
        """The case's checkpoint through the family's hooks; what does not fit is explained."""
        try:
            return load_eager(self.hooks(), case.folder, **lengths)
        except CheckpointError as error:
            pytest.fail(f"{error.message}\n\nlikely cause: {hint_for_tensors(error)}")

    def compare(
        self,
        loaded: Loaded,
        tokens: Tensor,
        pieces: Sequence[int],
        actual: Tensor,
        expected: Tensor,
    ) -> None:
        """Logits [S, vocab] of tokens that were given in pieces; a difference is explained."""
        bound = self.tolerance

        def agrees() -> bool:
            found = logits(loaded.model, tokens, list(pieces))
            return torch.allclose(found, expected, atol=bound, rtol=bound)

        def explain(difference: str) -> str:
            cause = cause_of_difference(
                loaded.model, loaded.params, loaded.checkpoint.config, agrees
            )
            return f"{difference}\n\nlikely cause: {cause}"

        torch.testing.assert_close(actual, expected, msg=explain, atol=bound, rtol=bound)

    def record(
        self, record: Record, case: Case, what: str, expected: Tensor, actual: Tensor
    ) -> None:
        """Note the largest difference for the table at the end of the run."""
        difference = float((actual - expected).abs().max())
        count = case.published.params.parameter_count
        record(Measured(self.family, case.size, count, what, difference))


def _tokens(length: int) -> Tensor:
    """Reproducible tokens [1, length]."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(VOCABULARY, (1, length), generator=generator)
