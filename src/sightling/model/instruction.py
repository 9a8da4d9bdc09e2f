"""Pictures that are read with the user's words, as InstructBLIP reads them: the words for its Q-Former.

Source of the method: Dai et al. 2023, "InstructBLIP" (arXiv:2305.06500). The Q-Former has a vocabulary of its own,
BERT's, and so a tokenizer of its own, which lies in the folder ``qformer_tokenizer`` beside the model's.

A picture is read with the words of the user's turn in which it stands, and with no others: neither an answer nor a
later question changes what was seen before, so what was learnt or cached holds. Words are plain text here, too: nobody
writes a ``[SEP]``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sightling.data.sample import Picture, Turn
from sightling.errors import UserError
from sightling.model.encoded import Encoded
from sightling.model.inputs import Inputs
from sightling.model.pretrained import load_tokenizer
from sightling.model.tokenizer import PlainText
from sightling.parts import make
from sightling.sight.connectors import CONNECTORS
from sightling.sight.connectors.qformer import Instruction, QFormerOptions

FOLDER = "qformer_tokenizer"
"""Where a model's folder holds the tokenizer, under transformers' name for it."""


class InstructionTokenizer:
    """The user's words as ids for a Q-Former: ``[CLS] words [SEP]``.

    Args:
        path: a folder, or a name that transformers finds.
        sizes: the rows of the Q-Former's tables of words and of places.
        kept: the folder holds the tokenizer alone, and its files are saved as they were, byte for byte; otherwise
            they are written anew.

    Raises:
        UserError: no tokenizer there, not one of BERT's kind, or one with more tokens than the Q-Former knows.
    """

    def __init__(self, path: str | Path, sizes: Instruction, *, kept: bool = True) -> None:
        tokenizer = load_tokenizer(path)
        self.limit = sizes.max_position_embeddings
        with TemporaryDirectory() as fresh:
            if not kept:
                tokenizer.save_pretrained(fresh)
            files = sorted(Path(path if kept else fresh).glob("*"))
            self.files = {file.name: file.read_bytes() for file in files if file.is_file()}
        self._plain = PlainText(tokenizer)
        self._around = tokenizer.cls_token_id, tokenizer.sep_token_id
        if None in self._around or tokenizer("a")["input_ids"] != [*self("a")]:
            raise UserError(f"the tokenizer in {path} is not of BERT's kind; a Q-Former reads [CLS] words [SEP]")
        if len(tokenizer) > sizes.vocab_size:
            raise UserError(
                f"the tokenizer in {path} has {len(tokenizer):,} tokens, but the Q-Former knows {sizes.vocab_size:,}"
            )

    def __call__(self, text: str) -> tuple[int, ...]:
        """Ids of a text that may hold anything.

        Raises:
            UserError: it is longer than the Q-Former's table of places; both numbers are given.
        """
        opening, closing = self._around
        ids = (opening, *self._plain(text), closing)
        if len(ids) > self.limit:
            raise UserError(
                f"the question has {len(ids):,} tokens for the Q-Former, which reads {self.limit:,}; shorten it"
            )
        return ids

    def save(self, folder: Path) -> None:
        """Write its files into ``folder``, byte for byte as they were read."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, held in self.files.items():
            (folder / name).write_bytes(held)


def reading(connector: Any) -> Instruction | None:
    """The sizes of the tables that a connector's options read the user's words with; None for one that reads none."""
    return connector.instruction if isinstance(connector, QFormerOptions) else None


def words_in(turn: Turn) -> str:
    """A turn's words as one text; a blank stands where a picture parts them."""
    return "".join(" " if isinstance(part, Picture) else part for part in turn.parts)


class Instructs:
    """What :class:`~sightling.model.processor.VisionLanguageProcessor` does for pictures that are read with words."""

    instruction: InstructionTokenizer | None = None
    """What cuts the user's words for the Q-Former; None where pictures are read without."""

    if TYPE_CHECKING:
        # The processor that this is a part of has them.
        image_processor: Any

        def inputs(self, *pictures: Picture) -> Inputs:
            """What the model takes of these pictures."""

    def find_instruction(self, path: Any) -> None:
        """Take the Q-Former's tokenizer from the folder of its model, if the model has such a Q-Former.

        Raises:
            UserError: it is not there, or does not fit.
        """
        sizes = reading(make(CONNECTORS, self.image_processor.connector, "connector"))
        if sizes is None:
            return
        folder = Path(path) / FOLDER
        if not folder.is_dir():
            raise UserError(f"the model in {path} lacks the tokenizer of its Q-Former: there is no {FOLDER}")
        self.instruction = InstructionTokenizer(folder, sizes)

    def words_for(self, turn: Turn) -> tuple[int, ...]:
        """The words that a picture of this turn is read with; empty where pictures are read without.

        Raises:
            UserError: a picture in a turn that is not the user's, or words that the Q-Former cannot hold.
        """
        if not self.image_processor.reads_text:
            return ()
        if self.instruction is None:
            raise UserError(f"the Q-Former reads the user's words, and has no tokenizer for them: set {FOLDER}")
        if turn.role != "user":
            raise UserError(
                f"the {turn.role}'s turn shows a picture, but this model reads pictures with the user's words; show "
                "it in a user's turn"
            )
        return self.instruction(words_in(turn))

    def shown(self, encoded: Encoded) -> Inputs:
        """What the model takes of a sample's pictures, at least one, with the words that each is read with."""
        return self.inputs(*encoded.pictures).read_with(encoded.words)

    def refuse_trusted(self) -> None:
        """Refuse a text whose turns cannot be told apart any more.

        Raises:
            UserError: a model that reads pictures with the user's words.
        """
        if self.image_processor.reads_text:
            raise UserError(
                "this model reads pictures with the user's words, which a finished text does not tell apart; use "
                "apply_chat_template(tokenize=True)"
            )

    def save_pretrained(self, folder: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, and the Q-Former's tokenizer in a folder of its own."""
        saved = super().save_pretrained(folder, *args, **kwargs)  # type: ignore[misc]
        if self.instruction is not None:
            self.instruction.save(Path(folder) / FOLDER)
        return saved
