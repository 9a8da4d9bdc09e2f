from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sightling.data.sample import Picture, Sample, Turn, question
from sightling.decode.batch import answer_all
from sightling.errors import UserError
from tinymodel import by_transformers, picture, tiny


def varied() -> list[Sample]:
    """Shared pictures, several pictures, none, later turns with pictures, prompts of many lengths."""
    a, b, c = picture(1), picture(2), picture(3)
    return [
        question("what colour?", a, answer="red"),
        question("is there a circle in it?", a),
        question("图中有没有红色的圆形？", a),
        question("and here?", b),
        question("which of the two is red?", a, b),
        question("what is a circle?"),
        Sample(
            (Turn("system", ("be short",)), Turn("user", (c, "red?")), Turn("assistant", ("no",)), Turn("user", ("?",)))
        ),
        Sample((Turn("user", (b, "red?")), Turn("assistant", ("no",)), Turn("user", (c, "and this one?")))),
        question("is there a blue circle in it, or a red one?", b, answer="ignored"),
        question("x " * 40, a),
    ]


@pytest.mark.parametrize("kind, window", [("llama", None), ("qwen3", None), ("qwen3", 8)])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_as_transformers_generate_row_by_row(kind: str, window: int | None, batch_size: int) -> None:
    model, processor = tiny(kind, window=window)
    samples = varied()
    prompts = [Sample(one.turns[:-1]) if one.turns[-1].role == "assistant" else one for one in samples]
    expected = [processor.decode_answer(by_transformers(model, processor, one, 12)) for one in prompts]
    assert len(set(expected)) > 5
    assert answer_all(model, processor, samples, max_new_tokens=12, batch_size=batch_size) == expected


def test_rows_stop_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny()
    samples = varied()
    first = [by_transformers(model, processor, one, 8) for one in samples if one.turns[-1].role == "user"]
    # Another token ends the answers: one that some rows say early and others late or never.
    stop = first[0][3]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [processor.stop_token_id, stop])
    told = answer_all(model, processor, [one for one in samples if one.turns[-1].role == "user"], max_new_tokens=8)
    cut = [ids[: ids.index(stop)] if stop in ids else ids for ids in first]
    assert told == [processor.decode_answer(ids) for ids in cut]
    assert len({len(ids) for ids in cut}) > 1


def test_a_shared_picture_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny()
    seen: list[int] = []
    original: Callable[..., torch.Tensor] = model.encoder.forward

    def counted(pixels: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(pixels.shape[0])
        return original(pixels, *rest)

    monkeypatch.setattr(model.encoder, "forward", counted)
    a, b = picture(1), picture(2)
    samples = [question(f"question {n}?", *(a, b)[: 1 + n % 2]) for n in range(11)]
    answer_all(model, processor, samples, max_new_tokens=2, batch_size=3)
    assert sum(seen) == 2


def test_the_model_is_left_as_it_was() -> None:
    model, processor = tiny("qwen3")
    model.language_model.train()
    try:
        answer_all(model, processor, varied()[:2], max_new_tokens=2)
        assert model.language_model.training and not model.encoder.training
        assert all(module.training for module in model.language_model.modules())
    finally:
        model.eval()


def test_progress_and_nothing_to_do() -> None:
    model, processor = tiny()
    told: list[tuple[int, int]] = []
    answer_all(model, processor, varied(), max_new_tokens=1, batch_size=4, progress=lambda *now: told.append(now))
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert answer_all(model, processor, []) == []


def test_a_full_context_and_bad_values_are_told() -> None:
    model, processor = tiny(context=32)
    with pytest.raises(UserError, match="context is 32 tokens; its picture needs 4 visual tokens, and beside"):
        answer_all(model, processor, [question("x " * 40, picture(1))])
    # The answer ends where the context does.
    assert len(processor.encode(question("x", picture(1)), prompt_only=True).input_ids) < 32
    answer_all(model, processor, [question("x", picture(1))], max_new_tokens=100)
    with pytest.raises(UserError, match="max_new_tokens = 0"):
        answer_all(model, processor, [question("x")], max_new_tokens=0)
    with pytest.raises(UserError, match="batch_size = 0"):
        answer_all(model, processor, [question("x")], batch_size=0)
    with pytest.raises(UserError, match="does not exist"):
        answer_all(model, processor, [question("x", Picture(path=Path("none.png")))])
