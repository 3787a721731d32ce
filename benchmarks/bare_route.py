"""What a typed JSON route costs by itself: FastAPI hands out one list of recommendations, always the same.

Answers `/bare`, with the answer in the file that PALATE_BENCHMARK_ANSWER names as a Pydantic object made once.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI

from app.recommendations.schemas import RecommendationsOut

app = FastAPI()
_answer = RecommendationsOut.model_validate_json(Path(os.environ["PALATE_BENCHMARK_ANSWER"]).read_bytes())


@app.get("/bare", response_model_exclude_unset=True)
async def bare() -> RecommendationsOut:
    return _answer
