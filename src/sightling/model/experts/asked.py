"""``model``: another sightling model that is asked one question about each picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from sightling.data.sample import Picture, question
from sightling.errors import UserError
from sightling.model.experts.base import EXPERTS, ExpertOptions, Name

REMEMBERED = 100_000
"""Answers that a process keeps; beyond them it begins anew."""

_ANSWERS: dict[tuple[str, str], str] = {}


@EXPERTS.register("model")
class ModelExpert(ExpertOptions):
    """The answer of the model in ``path`` to ``ask``, called ``part``; greedy, ``max_new_tokens`` at most.

    A picture is asked about once: answers are known by the picture's content, and kept in the folder ``cache`` where
    one is named, for later runs and other processes. They belong to that model's weights file by its name, size and
    time. ``device`` is where the model runs.
    """

    path: str
    ask: str = "Describe the picture."
    part: Name = "caption"
    max_new_tokens: int = Field(default=64, ge=1)
    cache: str | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Look for the model.

        Raises:
            UserError: there is none.
        """
        from sightling.loading import find_model

        find_model(Path(self.path).expanduser())

    def words(self, picture: Picture) -> Mapping[str, str]:
        """See the base class.

        Raises:
            UserError: no model there, or a picture that cannot be read.
        """
        key = (self._name(), picture.key())
        if key not in _ANSWERS:
            if len(_ANSWERS) >= REMEMBERED:
                _ANSWERS.clear()
            _ANSWERS[key] = self._kept(key, picture)
        return {self.part: _ANSWERS[key]}

    def _name(self) -> str:
        """What tells this expert's answers from any other's."""
        weights = _weights(str(Path(self.path).expanduser()))
        return hashlib.sha256(repr((weights, self.ask, self.max_new_tokens)).encode()).hexdigest()

    def _kept(self, key: tuple[str, str], picture: Picture) -> str:
        if self.cache is None:
            return self._answer(picture)
        place = Path(self.cache).expanduser() / key[0][:16] / key[1][:2] / f"{key[1]}.txt"
        if place.is_file():
            return place.read_text(encoding="utf-8")
        answer = self._answer(picture)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            # Whole or absent, whoever else writes it at the same time.
            fresh = place.with_suffix(f".{os.getpid()}")
            fresh.write_text(answer, encoding="utf-8")
            fresh.replace(place)
        except OSError as error:
            raise UserError(f"the expert's answers cannot be kept in {self.cache}: {error.strerror}") from None
        return answer

    @torch.inference_mode()
    def _answer(self, picture: Picture) -> str:
        model, processor = _loaded(str(Path(self.path).expanduser()), self.device)
        prompt = processor.encode(question(self.ask, picture), prompt_only=True)
        ids_BT = torch.tensor([prompt.input_ids], device=model.device)
        shown = processor.shown(prompt).tensors() if prompt.pictures else {}
        said_BT = model.generate(
            input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=self.max_new_tokens,
            do_sample=False, **{name: tensor.to(model.device) for name, tensor in shown.items()},
        )  # fmt: skip
        return str(processor.decode_answer(said_BT[0, ids_BT.shape[1] :].tolist()))


@lru_cache(maxsize=4)
def _loaded(path: str, device: str) -> tuple[Any, Any]:
    """A model and its processor; kept outside the options, which are copied and saved."""
    from sightling.loading import load

    return load(path, device)


@lru_cache(maxsize=64)
def _weights(path: str) -> tuple[tuple[str, int, int], ...]:
    """The weights' files with their sizes and times: other weights give other answers."""
    from sightling.loading import find_model

    folder = find_model(Path(path))
    files = sorted(folder.glob("*.safetensors"))
    return tuple((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
