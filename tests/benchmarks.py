"""Tiny made-up folders in the published layouts of the benchmarks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPTIONS = ["A. red", "B. green", "C. blue", "D. none"]


def worldsense(folder: Path, clips: Sequence[str], media: Path | None = None) -> Path:
    """Two questions to the first clip, one to each other."""
    told: dict[str, Any] = {}
    for number, clip in enumerate(clips):
        about = {
            "video_id": clip,
            "video_duration": "4s",
            "duration": "<1min",
            "domain": "Music" if number % 2 == 0 else "Games",
            "sub_category": "Covers",
            "audio_class": ["Music"],
            "video_caption": "Nothing to see.",
        }
        for task in range(2 if number == 0 else 1):
            about[f"task{task}"] = {
                "task_domain": "Recognition",
                "task_type": "Audio Recognition" if task else "Scene Recognition",
                "question": f"What is number {task}?",
                "answer": "AB"[task],
                "candidates": OPTIONS,
            }
        told[clip] = about
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "worldsense_qa.json").write_text(json.dumps(told))
    _place(folder / "videos", clips, media)
    return folder


def avut(folder: Path, clips: Sequence[str], media: Path | None = None) -> Path:
    told = [
        {
            "video_id": number,
            "url": "https://example.org/watch",
            "video_type": "vlog",
            "task_type": "Audio Event Location" if number % 2 == 0 else "Audio OCR Matching",
            "question": "When does it ring?",
            "option_A": "at once",
            "option_B": "later",
            "option_C": "",
            "option_D": "never",
            "answer": "B",
            "video_path": f"data/{clip}.mp4",
            "QA_id": 100 + number,
        }
        for number, clip in enumerate(clips)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "AV_Human_data.json").write_text(json.dumps(told))
    _place(folder / "data", clips, media)
    return folder


def videomme_rows(clips: Sequence[str]) -> list[dict[str, Any]]:
    """As the hub's Parquet file has them."""
    return [
        {
            "video_id": f"{number:03}",
            "duration": ("short", "medium", "long")[number % 3],
            "domain": "Knowledge",
            "sub_category": "Law",
            "url": f"https://www.youtube.com/watch?v={clip}",
            "videoID": clip,
            "question_id": f"{number:03}-1",
            "task_type": "Counting Problem",
            "question": "How many?",
            "options": OPTIONS,
            "answer": "C",
        }
        for number, clip in enumerate(clips)
    ]


def videomme(folder: Path, clips: Sequence[str], media: Path | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "videomme.json").write_text(json.dumps(videomme_rows(clips)))
    _place(folder / "data", clips, media)
    return folder


def videomme_by_authors(folder: Path, clips: Sequence[str]) -> Path:
    told = [
        {
            "video_id": f"{number:03}",
            "duration_category": "short",
            "video_category": "Knowledge",
            "video_subcategory": "Law",
            "url": f"https://www.youtube.com/watch?v={clip}",
            "questions": [
                {
                    "question_id": f"{number:03}-{n}",
                    "task_type": "Counting Problem",
                    "question": "How many?",
                    "choices": OPTIONS,
                    "answer": "C",
                }
                for n in (1, 2)
            ],
        }
        for number, clip in enumerate(clips)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(told))
    return folder


def _place(folder: Path, clips: Sequence[str], media: Path | None) -> None:
    folder.mkdir(exist_ok=True)
    for clip in clips:
        if media is not None:
            shutil.copy(media, folder / f"{clip}.mp4")
