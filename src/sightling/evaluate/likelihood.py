"""How likely a model finds given answers: choices are scored, and the true answer is checked without generating.

Legend: ``B`` rows, ``T`` nodes of a tree, ``D`` width, ``U`` nodes that something is predicted from, ``V`` vocabulary,
``C`` choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightling.data.sample import Picture, Sample
from sightling.decode.prompt import at_rest, context_limit, encode_prompt, forbidden_ids
from sightling.decode.visual import encode_pictures, in_row_order, visual_tokens
from sightling.errors import UserError
from sightling.evaluate.tree import TokenTree, collate
from sightling.model.modeling import VisionLanguageModel
from sightling.model.processor import VisionLanguageProcessor
from sightling.model.room import pictures_told
from sightling.model.spatial import Position

NODES = 512
"""A tree is not made larger than this where it can be cut: attention grows with the square."""

ROW_TREES = 256
"""So many trees are sorted by length before they are cut into batches."""

WAITING = 64
"""So many trees wait for more sequences about their pictures."""

BATCH_CELLS = 1 << 22
"""Cells of the attention mask in one batch."""

LOGITS = 1 << 24
"""Logits held at a time."""

Done = Callable[[int, int], None]
"""Called with (sequences done, sequences in all)."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Prompt and answer as ids; ``start`` is where the answer begins, ``shared`` the end of the last picture."""

    ids: tuple[int, ...]
    start: int
    shared: int
    pictures: tuple[Picture, ...]
    positions: Sequence[Position] | None = None
    words: tuple[tuple[int, ...], ...] = ()


def score_choices(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, sample: Sample, choices: Sequence[str]
) -> Tensor:
    """Log-probability_C of each choice as the whole answer: the sum over its tokens and the stop token, in nats.

    A closing assistant turn of the sample is ignored. Picture, prompt and the common beginnings of choices run
    through the model once (once for every :data:`NODES` tokens of choices).

    Raises:
        UserError: no choices, a picture that cannot be read, or a choice that does not fit the model's context.
    """
    return score_many(model, processor, [sample], [choices])[0]


def score_many(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    samples: Sequence[Sample],
    choices: Sequence[Sequence[str]],
    *,
    progress: Done | None = None,
) -> list[Tensor]:
    """:func:`score_choices` of many samples, each with its own choices; samples about one picture share it."""
    if len(samples) != len(choices):
        raise ValueError(f"{len(samples)} samples, but {len(choices)} lists of choices")
    if not all(choices):
        raise UserError("a list of choices is empty; there is nothing to score")
    sequences = (
        sequence for sample, own in zip(samples, choices) for sequence in _sequences(model, processor, sample, own)
    )
    total = sum(map(len, choices))
    scores = torch.empty(total)
    for tree, step_scores in _walk(model, processor, sequences, _log_probabilities, total, progress):
        for path, owner in zip(tree.paths, tree.owners):
            scores[owner] = sum(step_scores[step] for step in zip(path.parents, path.tokens))
    return list(scores.split([len(own) for own in choices]))


def answers_exactly(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    samples: Sequence[Sample],
    *,
    progress: Done | None = None,
) -> list[bool]:
    """Whether the model's greedy answer is, token by token, the sample's closing assistant turn.

    That is what generating would show, found in one pass: each token of the answer and its end must be the
    likeliest after those before it. (To rounding, as for every batch: where two tokens are equally likely to
    seven digits.) ``False`` does not mean that the answer is wrong: it may be right in other words.

    Raises:
        UserError: as :func:`score_choices`.
    """
    sequences = (sequence for sample in samples for sequence in _sequences(model, processor, sample, [sample.answer]))
    right = [False] * len(samples)
    for tree, likeliest in _walk(model, processor, sequences, _is_likeliest, len(samples), progress):
        for path, owner in zip(tree.paths, tree.owners):
            right[owner] = all(likeliest[step] for step in zip(path.parents, path.tokens))
    return right


def _sequences(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, sample: Sample, answers: Sequence[str]
) -> Iterator[_Sequence]:
    prompt = encode_prompt(processor, sample)
    image = processor.image_token_id
    shared = max((place + 1 for place, token in enumerate(prompt.input_ids) if token == image), default=0)
    limit = context_limit(model)
    for answer in answers:
        ids = (*prompt.input_ids, *processor.reply(answer))
        if limit is not None and len(ids) > limit:
            raise UserError(
                f"the question and the answer {answer[:40]!r} need {len(ids):,} tokens, visual ones included; "
                f"the model's context is {limit:,} tokens{pictures_told(processor, prompt.pictures, len(ids), limit)}"
            )
        behind = range(prompt.end, prompt.end + len(ids) - len(prompt.input_ids))
        places = None if prompt.places is None else (*prompt.places, *((number, number, number) for number in behind))
        yield _Sequence(ids, len(prompt.input_ids), shared, prompt.pictures, places, prompt.words)


def _trees(sequences: Iterable[_Sequence]) -> Iterator[TokenTree]:
    """Trees of the sequences in order; those about the same pictures share one while it has room.

    All that stands before the end of the last picture must be the same too, and the words that pictures are read
    with: a tree holds its pictures once.
    """
    growing: dict[tuple, TokenTree] = {}
    for number, sequence in enumerate(sequences):
        key = (sequence.ids[: sequence.shared], sequence.words, *(id(picture) for picture in sequence.pictures))
        tree = growing.get(key)
        if tree is not None and len(tree) + tree.missing(sequence.ids) > NODES:
            yield growing.pop(key)
            tree = None
        if tree is None:
            if len(growing) == WAITING:
                # Questions about one picture mostly come together; what waits for more only fills memory.
                yield from growing.values()
                growing.clear()
            tree = growing[key] = TokenTree(sequence.pictures, words=sequence.words)
        tree.add(sequence.ids, sequence.start, number, sequence.positions)
    yield from growing.values()


Judge = Callable[[VisionLanguageModel, Tensor, Tensor, Tensor], Tensor]
"""(model, hidden_UD, for each step its node among U, its token) -> a value for each step."""


def _walk(
    model: VisionLanguageModel,
    processor: VisionLanguageProcessor,
    sequences: Iterable[_Sequence],
    judge: Judge,
    total: int,
    progress: Done | None,
) -> Iterator[tuple[TokenTree, dict[tuple[int, int], float]]]:
    """Every tree with the judged value of each of its steps."""
    done = 0
    with torch.inference_mode(), at_rest(model):
        for window in _windows(_trees(sequences)):
            for batch in _batches(window):
                for tree, values in zip(batch, _judged(model, processor, batch, judge)):
                    yield tree, dict(zip(tree.steps(), values))
                    done += len(tree.paths)
                if progress is not None:
                    progress(done, total)


def _windows(trees: Iterable[TokenTree]) -> Iterator[list[TokenTree]]:
    window: list[TokenTree] = []
    for tree in trees:
        window.append(tree)
        if len(window) == ROW_TREES:
            yield window
            window = []
    if window:
        yield window


def _batches(trees: Sequence[TokenTree]) -> Iterator[list[TokenTree]]:
    """Trees of similar length together, the longest first, as many as the attention mask has room for."""
    batch: list[TokenTree] = []
    for tree in sorted(trees, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) ** 2 > BATCH_CELLS:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _judged(
    model: VisionLanguageModel, processor: VisionLanguageProcessor, batch: Sequence[TokenTree], judge: Judge
) -> list[list[float]]:
    """For each tree the value of each of its steps."""
    ids_BT, positions_BT, mask_B1TT = collate(batch, processor.pad_token_id, model.dtype)
    unique = {id(picture): picture for tree in batch for picture in tree.pictures}
    known = dict(zip(unique, encode_pictures(model, processor, list(unique.values()))))
    seen = [known[id(picture)] for tree in batch for picture in tree.pictures]
    features = in_row_order(visual_tokens(model, seen, [words for tree in batch for words in tree.words]))
    device = model.device
    hidden_BTD = model.decode(
        ids_BT.to(device),
        image_features_NQD=features,
        attention_mask=mask_B1TT.to(device),
        position_ids_BT=positions_BT.to(device),
        use_cache=False,
    ).last_hidden_state
    places: dict[tuple[int, int], int] = {}
    of_step, tokens, sizes = [], [], []
    for row, tree in enumerate(batch):
        steps = tree.steps()
        sizes.append(len(steps))
        for parent, token in steps:
            of_step.append(places.setdefault((row, parent), len(places)))
            tokens.append(token)
    row_U, node_U = torch.tensor(list(places), device=device).unbind(1)
    values = judge(
        model, hidden_BTD[row_U, node_U], torch.tensor(of_step, device=device), torch.tensor(tokens, device=device)
    )
    return [part.tolist() for part in values.cpu().split(sizes)]


def _log_probabilities(model: VisionLanguageModel, hidden_UD: Tensor, of_step: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of each step's token, in nats."""
    values = torch.empty(len(tokens), dtype=torch.float32, device=tokens.device)
    for steps, place, logits_UV in _logits(model, hidden_UD, of_step):
        normaliser_U = logits_UV.logsumexp(-1)
        values[steps] = logits_UV[place, tokens[steps]] - normaliser_U[place]
    return values


def _is_likeliest(model: VisionLanguageModel, hidden_UD: Tensor, of_step: Tensor, tokens: Tensor) -> Tensor:
    """Whether each step's token is the one that greedy decoding takes there."""
    values = torch.empty(len(tokens), dtype=torch.bool, device=tokens.device)
    forbidden = list(forbidden_ids(model))
    for steps, place, logits_UV in _logits(model, hidden_UD, of_step):
        logits_UV[:, forbidden] = -torch.inf
        values[steps] = logits_UV.argmax(-1)[place] == tokens[steps]
    return values


def _logits(model: VisionLanguageModel, hidden_UD: Tensor, of_step: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(the steps, their rows among the logits, logits_UV) for as many nodes at a time as memory should hold."""
    head = model.get_output_embeddings()
    each = max(1, LOGITS // model.config.text_config.vocab_size)
    for start in range(0, len(hidden_UD), each):
        steps = torch.nonzero((of_step >= start) & (of_step < start + each))[:, 0]
        yield steps, of_step[steps] - start, head(hidden_UD[start : start + each]).float()
