"""One processor for training, evaluation, serving and export; it is saved with the model.

It turns samples into tokens: chat template, placeholders expanded to exactly the number of visual
tokens, labels on the assistant's words only, and control tokens kept out of everybody's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from sightling.data.sample import Picture, Sample, Turn
from sightling.errors import UserError
from sightling.model.image_processor import VisionLanguageImageProcessor
from sightling.model.modeling import IGNORED
from sightling.model.template import TEMPLATES, Template
from sightling.model.tokenizer import PlainText


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as tokens.

    Attributes:
        input_ids: token ids, placeholders expanded.
        labels: the same ids where the loss counts them, -100 elsewhere.
        pictures: the pictures in the order of their placeholders.
        trunk: how many leading tokens, up to the end of the last picture of the first user turn,
            other samples about the same pictures would share; 0 when no picture opens the sample.
        trunk_pictures: how many of the pictures stand in the trunk.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    pictures: tuple[Picture, ...]
    trunk: int
    trunk_pictures: int = 0


class VisionLanguageProcessor(ProcessorMixin):
    """Tokenizer, image processor and chat template of a model."""

    def __init__(
        self,
        image_processor: VisionLanguageImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
        template: str = "chatml",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.template = template
        self._format: Template = TEMPLATES.get(template)
        self._plain = PlainText(tokenizer)
        self._control = {token: self._control_id(token) for token in self._format.control}
        self._segments: dict[str, tuple[int, ...]] = {}
        self._visual: dict[int, tuple[int, ...]] = {}

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The sub-processors; transformers would take every argument for one."""
        return ["image_processor", "tokenizer"]

    def _control_id(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise UserError(f"the tokenizer lacks the control token {token!r} of the chat template {self.template!r}")
        return int(index)

    @property
    def image_token_id(self) -> int:
        """The placeholder's id."""
        return self._control[self._format.image]

    @property
    def stop_token_id(self) -> int:
        """The token that ends an answer."""
        return self._control[self._format.stop]

    @property
    def pad_token_id(self) -> int:
        """What fills a row."""
        return int(self.tokenizer.pad_token_id)

    # ---- samples to tokens

    def plain(self, text: str) -> tuple[int, ...]:
        """Ids of text that may hold anything; none of them is a control token."""
        return self._plain(text)

    def _segment(self, text: str) -> tuple[int, ...]:
        """Ids of the template's own strings, where control tokens are control tokens."""
        ids = self._segments.get(text)
        if ids is None:
            ids = self._segments[text] = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        return ids

    def visual(self, picture: Picture) -> tuple[int, ...]:
        """Ids that stand for one picture: its opening, its placeholders, its closing."""
        count = self.image_processor.count(*picture.size())
        ids = self._visual.get(count)
        if ids is None:
            before, after = self._segment(self._format.before_image), self._segment(self._format.after_image)
            ids = self._visual[count] = (*before, *([self.image_token_id] * count), *after)
        return ids

    def encode(self, sample: Sample, *, prompt_only: bool = False) -> Encoded:
        """A sample as tokens and labels.

        With ``prompt_only`` the sample must end with a user turn, and the assistant's opening follows.

        Raises:
            UserError: no turns, an unknown role, or (with ``prompt_only``) a sample that does not end with the user.
        """
        if not sample.turns:
            raise UserError("the sample has no turns")
        if prompt_only and sample.turns[-1].role == "assistant":
            raise UserError("the sample ends with the assistant's turn; a prompt ends with the user's")
        ids: list[int] = []
        labels: list[int] = []
        pictures: list[Picture] = []
        trunk, trunk_pictures = 0, 0
        for index, turn in enumerate(sample.turns):
            if turn.role not in self._format.opens:
                raise UserError(f"turn {index} has the role {turn.role!r}; known are {sorted(self._format.opens)}")
            ids += self._segment(self._format.opens[turn.role])
            labels += [IGNORED] * (len(ids) - len(labels))
            self._body(turn, ids, pictures)
            counted = turn.role == "assistant" and turn.supervised
            labels += ids[len(labels) :] if counted else [IGNORED] * (len(ids) - len(labels))
            if turn.role == "user" and not any(earlier.role != "system" for earlier in sample.turns[:index]):
                trunk, trunk_pictures = self._trunk(turn, ids), len(pictures)
            close = self._segment(self._format.closes[turn.role])
            last = index == len(sample.turns) - 1
            if last and turn.role == "assistant":
                # What follows the stop token of the last turn teaches nothing; it is not spent on.
                close = close[: close.index(self.stop_token_id) + 1] if self.stop_token_id in close else close
            ids += close
            labels += [token if counted and token == self.stop_token_id else IGNORED for token in close]
        if prompt_only:
            ids += self._segment(self._format.opens["assistant"])
            labels += [IGNORED] * (len(ids) - len(labels))
        return Encoded(tuple(ids), tuple(labels), tuple(pictures), trunk, trunk_pictures)

    def _body(self, turn: Turn, ids: list[int], pictures: list[Picture]) -> None:
        for part in turn.parts:
            if isinstance(part, str):
                ids += self._plain(part)
            else:
                ids += self.visual(part)
                pictures.append(part)

    def _trunk(self, turn: Turn, ids: list[int]) -> int:
        """Length of the prefix that ends with the last picture of this, the first, user turn."""
        after = 0
        for part in reversed(turn.parts):
            if isinstance(part, Picture):
                return len(ids) - after
            after += len(self._plain(part))
        return 0

    def prompt_text(self, sample: Sample) -> str:
        """The exact prompt as text, placeholders expanded."""
        encoded = self.encode(sample, prompt_only=sample.turns[-1].role != "assistant")
        return str(self.tokenizer.decode(list(encoded.input_ids)))

    def pixels(self, picture: Picture) -> Tensor:
        """``uint8`` pixels_NCHW of a picture's encoder inputs, in order."""
        return self.image_processor.pixels(picture.load())

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The words of generated ids: up to the stop token, without control tokens."""
        kept = list(ids)
        if self.stop_token_id in kept:
            kept = kept[: kept.index(self.stop_token_id)]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    # ---- transformers' way in

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Text (one or several rows) with one placeholder a picture, and the pictures in order.

        Text that comes this way has been through the chat template and is trusted: its control tokens are
        control tokens. Samples go through :meth:`encode`, where they are not.

        Raises:
            UserError: placeholders and pictures differ in number; both numbers are given.
        """
        rows = [text] if isinstance(text, str) else list(text or [])
        listed = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
        flat = [image for entry in listed for image in (entry if isinstance(entry, (list, tuple)) else [entry])]
        mark = self._format.image
        marks = sum(row.count(mark) for row in rows)
        if marks != len(flat):
            raise UserError(f"the text holds {marks} image placeholders, but {len(flat)} pictures were given")
        upcoming = iter(flat)
        expanded = []
        for row in rows:
            pieces = row.split(mark)
            joined = pieces[0]
            for piece in pieces[1:]:
                joined += mark * self.image_processor.count(*next(upcoming).size) + piece
            expanded.append(joined)
        kwargs.setdefault("padding", len(rows) > 1)
        kwargs.setdefault("padding_side", "left")
        kwargs.pop("images_kwargs", None)
        features = dict(self.tokenizer(expanded, add_special_tokens=False, **kwargs))
        if flat:
            features["pixel_values"] = self.image_processor.preprocess(flat)["pixel_values"]
        return BatchFeature(features)
