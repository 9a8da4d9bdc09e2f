"""``sightling ask MODEL PICTURE... "question"``: one answer, for people and for scripts; a video is many pictures."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightling.errors import UserError

if TYPE_CHECKING:
    from sightling.serve.opening import Opened

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def ask(
    model: Annotated[Path, typer.Argument(help="A model's folder, or a run's.")],
    pictures_and_question: Annotated[
        list[str], typer.Argument(metavar="PICTURE... QUESTION", help="Pictures or videos; the question is last.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the answer, counts, seconds.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Length of the answer at most.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw from the k likeliest only; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest that reach this probability.")] = 1.0,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Draw from those this share as likely as the likeliest.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1, what was said becomes less likely.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="For drawing.", show_default="a new one each time")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Such as cpu or cuda:0.", show_default="an accelerator, else cpu")
    ] = None,
    decoder: Annotated[
        str,
        typer.Option(
            "--decoder",
            help="auto (own if it can), own, transformers, or rounded on a CPU: own_{float16,bfloat16,int8,int4}.",
        ),
    ] = "auto",
    frames: Annotated[
        int | None, typer.Option("--frames", help="Frames of a video at most.", show_default="8, by rate 64")
    ] = None,
    frame_sampling: Annotated[
        str | None,
        typer.Option("--sampling", help="Which frames: uniform, rate (1 a second) or change.", show_default="uniform"),
    ] = None,
) -> None:
    """Ask a model one question about a picture, about several, or about a video (as pictures in order)."""
    *paths, question = pictures_and_question
    given = _opened(paths, question, frame_sampling, frames)
    from sightling.decode.generate import Trace, generate
    from sightling.decode.sampling import Sampling
    from sightling.decode.session import checked

    text = checked(question)
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p)

    from sightling.data.sample import question as sample_of
    from sightling.loading import load
    from sightling.serve.terminal import printable

    opened, processor = load(model, device=device)
    pictures = [picture for one in given for picture in one.pictures]
    trace = Trace()
    start = time.perf_counter()
    pieces = generate(opened, processor, sample_of(text, *pictures), decoder=decoder, trace=trace, **sampling.options())
    if not as_json:
        for piece in pieces:
            typer.echo(printable(piece), nl=False)
            sys.stdout.flush()
        typer.echo()
        return
    answer = "".join(pieces)
    told: dict[str, Any] = {
        "answer": answer,
        "question": question,
        "pictures": paths,
        "model": str(model),
        "seconds": round(time.perf_counter() - start, 4),
        "visual_tokens": trace.visual_tokens,
        "prompt_tokens": trace.prompt_tokens,
        "answer_tokens": len(trace.ids),
        "finish": trace.finish,
        "decoder": trace.decoder,
    }
    if trace.reason:
        told["decoder_reason"] = trace.reason
    if videos := [one.about() for one in given if one.video is not None]:
        told["videos"] = videos
    typer.echo(json.dumps(told, ensure_ascii=False))


SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mp4", ".mov", ".mkv", ".webm", ".avi")
"""How the names of pictures and videos end: one word that does so is a file that was meant to be there."""


def _opened(paths: list[str], question: str, kind: str | None, frames: int | None) -> list[Opened]:
    """The pictures and videos, decoded: what is wrong with one is told before a model is loaded."""
    from sightling.serve.opening import open_all

    if os.path.isfile(question):
        raise UserError(f'the last argument is the question, but {question} is a file; add "a question in quotes"')
    if os.path.isdir(question) or (" " not in question and question.lower().endswith(SHOWN)):
        raise UserError(f'the last argument is the question, but {question} is a path; add "a question in quotes"')
    if not paths:
        raise UserError('a picture and a question are needed: sightling ask MODEL PICTURE "what colour is it?"')
    return open_all(paths, kind, frames)
