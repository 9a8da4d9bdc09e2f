"""``sightling chat MODEL [PICTURE ...]``: a conversation about pictures in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(help="A model's folder, or a run's.")],
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="Pictures or videos to begin with.")
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Ask each question anew about the pictures, without what was said before.")
    ] = False,
    system: Annotated[str | None, typer.Option("--system", help="A system turn to begin with.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Length of an answer at most.")] = 256,
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
    preview: Annotated[bool, typer.Option("--preview/--no-preview", help="Show pictures in a colour terminal.")] = True,
) -> None:
    """Talk with a model about pictures; /help inside says how.

    With piped input each line is a turn and each answer is printed alone; bad input among it gives exit code 2.
    """
    from sightling.serve.opening import frame_sampling as sampling_of
    from sightling.serve.opening import open_path

    # Before the heavy imports: what is wrong with a picture is told at once.
    shown = sampling_of(frame_sampling, frames)
    opened = [open_path(path, shown) for path in pictures or []]

    from sightling.decode.sampling import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p)

    from sightling.decode.session import Session
    from sightling.loading import find_model, load
    from sightling.serve.terminal import Terminal

    whole, processor = load(model, device=device)
    session = Session(whole, processor, system=system, single=single, decoder=decoder, **sampling.options())
    raise typer.Exit(Terminal(session, str(find_model(model)), preview=preview, frames=shown).run(opened))
