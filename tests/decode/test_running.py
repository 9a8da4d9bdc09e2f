"""Answers that run side by side are those that each would be alone."""

from __future__ import annotations

from typing import Any

import pytest

from sightling.data.sample import Sample, question
from sightling.decode.generate import Trace, generate
from sightling.decode.running import Running
from sightling.errors import UserError
from tinymodel import picture, tiny

QUESTIONS: list[tuple[Sample, dict[str, Any]]] = [
    (question("what colour?", picture(1)), {"max_new_tokens": 9}),
    (question("图中有没有红色的圆形？", picture(1), picture(2)), {"max_new_tokens": 4}),
    (question("x " * 30), {"max_new_tokens": 12, "temperature": 2.0, "top_k": 50, "seed": 7}),
    (question("red?", picture(2)), {"max_new_tokens": 7, "repetition_penalty": 1.5}),
    (question("is there a circle in it?", picture(3)), {"max_new_tokens": 1}),
    (question("and here?", picture(3)), {"max_new_tokens": 11, "temperature": 1.0, "top_p": 0.9, "seed": 3}),
]


def alone(sample: Sample, told: dict[str, Any], window: int | None) -> tuple[str, Trace]:
    trace = Trace()
    return "".join(generate(*tiny("qwen3", window=window), sample, trace=trace, **told)), trace


@pytest.mark.parametrize("way, window", [("own", None), ("own", 8), ("transformers", None), ("transformers", 8)])
def test_whoever_else_is_there(way: str, window: int | None) -> None:
    running = Running(*tiny("qwen3", window=window), rows=3, decoder=way)
    waiting = list(enumerate(QUESTIONS))
    texts, traces, most = {number: "" for number in range(len(waiting))}, {}, 0
    tickets: dict[int, int] = {}
    while waiting or len(running):
        # One joins at each step while there is room: nobody begins with anybody.
        if waiting and len(running) < 3:
            number, (sample, told) = waiting.pop(0)
            tickets[running.join(sample, **told)] = number
        most = max(most, len(running))
        for said in running.step():
            texts[tickets[said.ticket]] += said.text
            traces[tickets[said.ticket]] = said.trace
    assert most == 3 and running.way == way
    for number, (sample, told) in enumerate(QUESTIONS):
        text, trace = alone(sample, told, window)
        assert texts[number] == text
        assert (traces[number].ids, traces[number].finish) == (trace.ids, trace.finish)
        assert traces[number].prompt_tokens == trace.prompt_tokens


def test_an_answer_that_is_left_disturbs_nobody() -> None:
    running = Running(*tiny("qwen3"))
    tickets = [running.join(sample, **told) for sample, told in QUESTIONS[:3]]
    texts = dict.fromkeys(tickets, "")
    for step in range(12):
        for said in running.step():
            texts[said.ticket] += said.text
        if step == 1:
            running.leave(tickets[0])
            running.leave(99)
    assert len(running) == 0
    assert [texts[ticket] for ticket in tickets[1:]] == [alone(*one, None)[0] for one in QUESTIONS[1:3]]
    late = running.join(*QUESTIONS[0][:1], max_new_tokens=5)
    running.leave(late)
    assert running.step() == []


def test_what_cannot_join_is_told_and_the_others_go_on() -> None:
    running = Running(*tiny(context=64), rows=1)
    with pytest.raises(UserError, match="context is 64 tokens"):
        running.join(question("x " * 60))
    with pytest.raises(UserError, match="top_p = 2"):
        running.join(question("red?"), top_p=2)
    running.join(question("red?"), max_new_tokens=3)
    with pytest.raises(UserError, match="all 1 rows are taken"):
        running.join(question("red?"))
    assert [len(running.step()) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(UserError, match="rows = 0"):
        Running(*tiny(), rows=0)
