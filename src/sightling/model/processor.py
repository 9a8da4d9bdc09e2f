"""One processor for training, evaluation, serving and export; it is saved with the model.

It turns samples into tokens: chat template, placeholders expanded to exactly the number of visual
tokens, labels on the assistant's words only, and control tokens kept out of everybody's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from sightling.data.sample import Picture, Sample
from sightling.errors import UserError
from sightling.foreign import layout_of, reader
from sightling.model.encoded import Encoded
from sightling.model.experts import make_experts, notes
from sightling.model.image_processor import VisionLanguageImageProcessor, opens
from sightling.model.inputs import Inputs
from sightling.model.instruction import Instructs
from sightling.model.messages import sample_of
from sightling.model.row import Row
from sightling.model.spatial import Places, places
from sightling.model.templates import TEMPLATES, Template
from sightling.model.templates.script import Answer, Said, Shown, Stop, Words, script
from sightling.model.tokenizer import PlainText

__all__ = ["Encoded", "VisionLanguageProcessor"]


class VisionLanguageProcessor(Instructs, ProcessorMixin):
    """Tokenizer, image processor and chat template of a model."""

    def __init__(
        self,
        image_processor: VisionLanguageImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
        template: str = "chatml",
        spatial: bool = False,
        experts: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        self._format: Template = TEMPLATES.get(template)
        # A pretrained tokenizer's own chat template may be another format; what is trained is this one.
        super().__init__(image_processor, tokenizer, chat_template=chat_template or self._format.jinja())
        self.template = template
        self.spatial = spatial
        self.experts = [dict(one) for one in experts]
        self._experts = make_experts(self.experts, "experts")
        self._plain = PlainText(tokenizer)
        control = (*self._format.control, *image_processor.marks)
        self._control = {token: self._control_id(token) for token in control}
        self._boundary = re.compile("(" + "|".join(map(re.escape, sorted(self._control, key=len, reverse=True))) + ")")
        self._split: dict[str, tuple[int | str, ...]] = {}
        self._stop = self._stop_id()

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The sub-processors; transformers would take every argument for one."""
        return ["image_processor", "tokenizer"]

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As saved; a foreign layout that is known is read.

        Raises:
            UserError: pictures or prompts that are prepared in a way that ours cannot follow.
        """
        foreign = layout_of(path)
        if foreign is not None:
            return reader(foreign).load_processor(Path(path))
        made = super().from_pretrained(path, *args, **kwargs)
        (made[0] if isinstance(made, tuple) else made).find_instruction(path)
        return made

    def _control_id(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or (index == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token):
            raise UserError(f"the tokenizer lacks the control token {token!r} of the chat template {self.template!r}")
        return int(index)

    def _stop_id(self) -> int:
        stop = self._format.stop
        if stop in self._control:
            return self._control[stop]
        # Behind a letter, so that no blank is put before it.
        ids = self._plain(f"a{stop}")[len(self._plain("a")) :]
        if len(ids) != 1:
            raise UserError(
                f"the chat template {self.template!r} ends an answer with {stop!r}, which the tokenizer spells with "
                f"{len(ids)} tokens; it must be one"
            )
        return int(ids[0])

    @property
    def image_token_id(self) -> int:
        """The placeholder's id."""
        return self._control[self._format.image]

    @property
    def stop_token_id(self) -> int:
        """The token that ends an answer."""
        return self._stop

    @property
    def pad_token_id(self) -> int:
        """What fills a row."""
        return int(self.tokenizer.pad_token_id)

    def speaking(self, template: str) -> VisionLanguageProcessor:
        """The same pictures and tokens in another chat template.

        Raises:
            UserError: an unknown template, one whose control tokens the tokenizer lacks, or another placeholder.
        """
        parts = self.image_processor, self.tokenizer
        other = VisionLanguageProcessor(*parts, template=template, spatial=self.spatial, experts=self.experts)
        if other.image_token_id != self.image_token_id:
            raise UserError(
                f"the chat template {template!r} has the placeholder {other._format.image!r}, but the model's is "
                f"{self._format.image!r}"
            )
        other.instruction = self.instruction
        return other

    # ---- samples to tokens

    def plain(self, text: str) -> tuple[int, ...]:
        """Ids of text that may hold anything; none of them is a control token."""
        return self._plain(text)

    def _pieces(self, text: str) -> tuple[int | str, ...]:
        """One of the template's own strings: control tokens as ids, what stands between them as text."""
        pieces = self._split.get(text)
        if pieces is None:
            found = (piece for piece in self._boundary.split(text) if piece)
            pieces = self._split[text] = tuple(self._control.get(piece, piece) for piece in found)
        return pieces

    def visual(self, picture: Picture) -> tuple[int, ...]:
        """Ids that stand for one picture: its opening, its placeholders, its closing."""
        row = Row(self._plain)
        self._picture(picture, row)
        row.flush()
        return tuple(row.ids)

    def _picture(self, picture: Picture, row: Row, number: int = 0, joined: bool = False) -> None:
        """A picture that is ``number`` pictures behind the first; ``joined`` to the one before, it has no opening.

        What the experts say of it stands behind its placeholders, cut into tokens by itself.
        """
        if not joined:
            row.template(self._pieces(self._format.before(number)))
        pieces = self.image_processor.pieces(*picture.size(), picture.tiles)
        row.template(self._pieces("" if opens(pieces) else self._format.uncut))
        for piece in pieces:
            if isinstance(piece, str):
                row.template(self._pieces(piece))
                continue
            row.flush()
            row.add([self.image_token_id] * piece)
        if self._experts:
            row.flush()
            row.text = notes(self._experts, picture)
            row.flush()
        row.template(self._pieces(self._format.after_image))

    def encode(self, sample: Sample, *, prompt_only: bool = False, finished: bool = True) -> Encoded:
        """A sample as tokens and labels.

        With ``prompt_only`` the sample must end with a user turn, and the assistant's opening follows. With
        ``finished=False`` a last assistant turn stays open: it can be gone on with.

        The ids are those that the Jinja template gives the same conversation, placeholders expanded, with two
        exceptions: the last assistant turn ends with its stop token, and an answer that begins with a line
        break is cut off from the opening before it, because generation begins there.

        Raises:
            UserError: no turns, a turn that the template cannot write, or (with ``prompt_only``) a sample that does
                not end with the user.
        """
        if not sample.turns:
            raise UserError("the sample has no turns")
        if prompt_only and sample.turns[-1].role != "user":
            raise UserError(f"the sample ends with the {sample.turns[-1].role}'s turn; a prompt ends with the user's")
        row = Row(self._plain, image=self.image_token_id)
        pictures: list[Picture] = []
        words: list[tuple[int, ...]] = []
        trunk, trunk_pictures = 0, 0
        opening = next((index for index, turn in enumerate(sample.turns) if turn.role != "system"), None)
        for step in script(self._format, sample.turns, prompt_only, finished):
            match step:
                case Said(text):
                    row.template(self._pieces(text))
                case Words(text):
                    row.text += text
                case Answer(text, counted):
                    row.answer(text, counted)
                case Stop(counted):
                    row.flush()
                    row.add((self.stop_token_id,), counted)
                case Shown(picture, number, turn, joined):
                    self._picture(picture, row, number, joined)
                    if self.image_processor.pieces(*picture.size(), picture.tiles):
                        pictures.append(picture)
                        words.append(self.words_for(sample.turns[turn]))
                    if turn == opening and sample.turns[turn].role == "user":
                        trunk, trunk_pictures = len(row.ids), len(pictures)
        row.flush()
        places = self._places(row.ids, pictures) if self.spatial else None
        shown = tuple(pictures), trunk, trunk_pictures, places, tuple(words)
        return Encoded(tuple(row.ids), tuple(row.labels), *shown)

    def _places(self, ids: Sequence[int], pictures: Sequence[Picture]) -> Places:
        """The place of each token in time, by row and by column."""
        shown = [self.image_processor.fields(*picture.size(), picture.tiles) for picture in pictures]
        here_T = torch.tensor(ids) == self.image_token_id
        return tuple(map(tuple, places(here_T, [field for one in shown for field in one]).T.tolist()))

    def reply(self, answer: str) -> tuple[int, ...]:
        """What the model is to write behind a prompt to say ``answer``: its words and the stop token."""
        head, stops, _ = self._format.ending()
        ids = self._plain(self._format.leads.get("assistant", "") + answer + head, False)
        return (*ids, self.stop_token_id) if stops else ids

    def prompt_text(self, sample: Sample) -> str:
        """The exact prompt as text, placeholders expanded and written as the template's original writes them."""
        encoded = self.encode(sample, prompt_only=sample.turns[-1].role != "assistant")
        if not self._format.spelling:
            return str(self.tokenizer.decode(list(encoded.input_ids)))
        runs = [(key, list(run)) for key, run in groupby(encoded.input_ids, lambda token: token == self.image_token_id)]
        return "".join(
            self._format.placeholders(len(run)) if key else str(self.tokenizer.decode(run)) for key, run in runs
        )

    def pixels(self, picture: Picture) -> Tensor:
        """``uint8`` pixels_NCHW of a picture's encoder inputs, in order."""
        return self.image_processor.pixels(picture.load(), picture.tiles)

    def inputs(self, *pictures: Picture) -> Inputs:
        """What the model takes of these pictures, at least one, in order."""
        return Inputs.join([self.image_processor.inputs(picture.load(), picture.tiles) for picture in pictures])

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The words of generated ids: up to the stop token, without control tokens."""
        kept = list(ids)
        if self.stop_token_id in kept:
            kept = kept[: kept.index(self.stop_token_id)]
        words = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        return (words.partition(self._format.stop)[0] if self._format.stop_as_text else words).strip()

    # ---- transformers' way in

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Text (one or several rows) with one placeholder a picture, and the pictures in order.

        Text that comes this way has been through the chat template and is trusted: its control tokens are
        control tokens. Messages go through :meth:`apply_chat_template` and samples through :meth:`encode`,
        where they are not.

        ``images`` is one picture, a list of all rows' pictures, or a list of lists, one a row.

        Raises:
            UserError: placeholders and pictures differ in number (both are given), a picture would be cut, or there
                are experts, whose words are not to be trusted, or pictures that are read with the user's words.
        """
        if self._experts:
            raise UserError("experts' words cannot stand in a trusted text; use apply_chat_template(tokenize=True)")
        self.refuse_trusted()
        rows = [text] if isinstance(text, str) else list(text or [])
        if not rows:
            raise UserError("the processor was called without text; a picture stands where its placeholder is")
        listed = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        nested = bool(listed) and all(isinstance(entry, (list, tuple)) for entry in listed)
        flat = [image for entry in listed for image in entry] if nested else listed
        mark = self._format.image
        marks = [row.count(mark) for row in rows]
        given = [len(entry) for entry in listed] if nested else [len(flat)]
        if (marks if nested else [sum(marks)]) != given:
            raise UserError(f"the text holds {_told(marks)} image placeholders, but {_told(given)} pictures were given")
        upcoming = iter(flat)
        expanded = []
        for row in rows:
            pieces = row.split(mark)
            joined = pieces[0]
            for piece in pieces[1:]:
                shown = self.image_processor.pieces(*next(upcoming).size)
                joined = joined.removesuffix(self._format.uncut) if opens(shown) else joined
                joined += "".join(mark * one if isinstance(one, int) else one for one in shown) + piece
            expanded.append(joined)
        kwargs.update(kwargs.pop("text_kwargs", None) or {})
        kwargs.pop("images_kwargs", None)
        for absent in ("videos", "audio"):
            if kwargs.pop(absent, None) is not None:
                raise UserError(f"the processor takes text and images, not {absent}")
        kwargs.setdefault("padding", len(rows) > 1)
        kwargs.setdefault("padding_side", "left")
        features = dict(self.tokenizer(expanded, add_special_tokens=False, **kwargs))
        for ids, row in zip(features["input_ids"], expanded, strict=True):
            kept = sum(int(token) == self.image_token_id for token in ids)
            if kept != row.count(mark):
                raise UserError(
                    f"max_length cuts a picture: {kept} of its row's {row.count(mark)} placeholders would be left"
                )
        if flat:
            features |= self.image_processor.preprocess(flat)
        return BatchFeature(features)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Messages (one conversation or several) as a prompt text, or with ``tokenize`` as tensors for the model.

        With ``tokenize``, what a message says never becomes a control token. As text it cannot be told apart:
        treat that form as trusted. Several conversations are padded on the left.

        Raises:
            UserError: messages of another form, a role that the template lacks, or an option it cannot follow.
        """
        if not tokenize or chat_template is not None:
            return super().apply_chat_template(
                conversation, chat_template, tokenize=tokenize, add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message, return_dict=return_dict,
                return_tensors=return_tensors or "auto", processor_kwargs=dict(processor_kwargs or {}), **kwargs,
            )  # fmt: skip
        told = {**kwargs, **(processor_kwargs or {})}
        padding_side = told.pop("padding_side", "left")
        asked = told.pop("return_tensors", None) or return_tensors
        told = {key: value for key, value in told.items() if value is not None and key not in ("padding", "truncation")}
        if told:
            raise UserError(f"the chat template {self.template!r} cannot follow {next(iter(told))!r}")
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        rows: list[list[int]] = []
        shown: list[Inputs] = []
        for messages in conversation if several else [conversation]:
            sample = sample_of(messages)
            if continue_final_message and sample.turns[-1].role != "assistant":
                raise UserError("only an assistant's message can be gone on with; the last one is not")
            encoded = self.encode(sample, prompt_only=add_generation_prompt, finished=not continue_final_message)
            rows.append(list(encoded.input_ids))
            shown += [self.shown(encoded)] if encoded.pictures else []
        width = max(map(len, rows)) if asked else 0
        pads = [width - len(row) if asked else 0 for row in rows]
        ids = [_padded(row, pad, self.pad_token_id, padding_side) for row, pad in zip(rows, pads, strict=True)]
        if not return_dict:
            return BatchFeature({"input_ids": ids}, tensor_type=asked)["input_ids"]
        mask = [_padded([1] * len(row), pad, 0, padding_side) for row, pad in zip(rows, pads, strict=True)]
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if shown:
            features |= Inputs.join(shown).tensors()
        return BatchFeature(features, tensor_type=asked)


def _padded(values: list[int], count: int, pad: int, side: str) -> list[int]:
    return [pad] * count + values if side == "left" else values + [pad] * count


def _told(counts: list[int]) -> str:
    """One number, or one a row."""
    return str(counts[0]) if len(counts) == 1 else f"{sum(counts)} ({', '.join(map(str, counts))} a row)"
