"""Small files of every layout, for tests: the same forms as the published data, made here."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(path: Path, size: tuple[int, int] = (16, 12), color: Any = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def encoded(size: tuple[int, int] = (16, 12), color: Any = (200, 30, 30), kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind, **options)
    return buffer.getvalue()


def write_json(path: Path, value: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


def write_lines(path: Path, values: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def talk(*values: str) -> list[dict[str, str]]:
    """LLaVA's turns: human and gpt by turns."""
    return [{"from": "gpt" if number % 2 else "human", "value": value} for number, value in enumerate(values)]


def chat(*values: Any) -> list[dict[str, Any]]:
    """OpenAI's turns: user and assistant by turns."""
    return [{"role": "assistant" if number % 2 else "user", "content": value} for number, value in enumerate(values)]


def huge_png(path: Path, width: int = 60_000, height: int = 60_000) -> Path:
    """A PNG of a few bytes that declares that many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def half(path: Path) -> Path:
    """The file cut in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


# ---- one small data set of each layout; each returns the path that is read


def llava(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        picture(folder / name)
    records = [
        {
            "id": "0",
            "image": "a.png",
            "conversations": talk("<image>\nWhat is it?", "A circle.", "Which colour?", "Red."),
        },
        {"id": "1", "image": ["a.png", "b.png"], "conversations": talk("Are <image> and <image>\nalike?", "Yes.")},
        {"id": "2", "conversations": talk("Say hello.", "Hello.")},
    ]
    return write_json(folder / "llava.json", records, indent=1)


def minimind_json(folder: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(folder / name)
    turns = [{"from": "anything", "value": "比较\n<image>\n<image>"}, {"from": "anything", "value": "一样"}]
    records = [{"id": "0", "image": "a.jpg", "conversations": talk("图里有什么?\n<image>", "一个圆。")}]
    records.append({"id": "1", "image": "a.jpg, b.jpg", "conversations": turns})
    return write_json(folder / "chat-translated.json", records, ensure_ascii=False)


def minimind_rows(count: int = 3) -> list[dict[str, Any]]:
    turns = [chat(f"<image>\nQ{number}", f"A{number}") for number in range(count)]
    return [
        {"conversations": json.dumps(each), "image_bytes": encoded(color=(number % 256, number // 256, 0), kind="PNG")}
        for number, each in enumerate(turns)
    ]


def minimind_parquet(folder: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows or minimind_rows()), folder / "sft.parquet", **options)
    return folder / "sft.parquet"


def openai(folder: Path) -> Path:
    picture(folder / "a.png")
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What is it?"}]
    records = [
        {"messages": [{"role": "system", "content": "Be brief."}, *chat(parts, "A circle.")]},
        {"messages": chat("<image>\nWhat is it?", "A circle."), "images": ["a.png"]},
    ]
    return write_lines(folder / "chat.jsonl", records)


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of members by name, as WebDataset writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def webdataset(folder: Path) -> Path:
    talks = {"conversations": talk("<image>\nWhat is it?", "A circle.")}
    named = {"messages": chat([{"type": "image", "image": "c.b.png"}, {"type": "text", "text": "And it?"}], "A box.")}
    members = [
        ("a.jpg", encoded()), ("a.txt", b" a caption \n"), ("a.json", b'{"url": "x", "score": 2}'),
        ("b.json", json.dumps(talks).encode()), ("b.png", encoded(kind="PNG")),
        ("c.a.png", encoded(kind="PNG")), ("c.b.png", encoded((8, 8), kind="PNG")), ("c.cls", b"3"),
        ("c.json", json.dumps(named).encode()),
    ]  # fmt: skip
    return tar(folder / "shard-000000.tar", members)


def nlvr_row(identifier: str, directory: str = "0", label: str = "true", **more: Any) -> dict[str, Any]:
    return {"sentence": "There is a box.", "label": label, "identifier": identifier, "directory": directory, **more}


def nlvr(folder: Path) -> Path:
    for order in range(6):
        picture(folder / f"dev/images/2/dev-7-0-{order}.png", (400, 100))
    return write_lines(folder / "dev/dev.json", [nlvr_row("7-0", "2")])


def easy_vqa(folder: Path) -> Path:
    for number in range(2):
        picture(folder / f"train/images/{number}.png", (64, 64))
    triples = [
        ["what color is the circle?", "red", 0],
        ["is there a circle?", "yes", 0],
        ["what shape is it?", "circle", 1],
    ]
    (folder / "answers.txt").write_text("red\nyes\nno\ncircle\n", encoding="utf-8")
    return write_json(folder / "train/questions.json", triples)


def class_folders(folder: Path) -> Path:
    for label, name in (("AnnualCrop", "1.jpg"), ("AnnualCrop", "0.jpg"), ("SeaLake", "0.jpg")):
        picture(folder / label / name)
    return folder


def picture_table(folder: Path) -> Path:
    for name in ("noto/0.png", "noto/1.png", "twemoji/0.png"):
        picture(folder / name)
    rows = [
        "code,skin_tone,en_name,zh_name,noto,twemoji",
        "0,0,joker,大小王,noto/0.png,twemoji/0.png",
        "1,1,ox,公牛,noto/1.png,",
    ]
    (folder / "names.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "names.csv"


ALL = {
    "llava": llava,
    "minimind_json": minimind_json,
    "minimind_parquet": minimind_parquet,
    "openai": openai,
    "nlvr": nlvr,
    "easy_vqa": easy_vqa,
    "class_folders": class_folders,
    "picture_table": picture_table,
    "webdataset": webdataset,
}
