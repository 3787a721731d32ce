"""The cost of a typed JSON route alone: FastAPI returns the same list of recommendations every time.

Serves `/bare`: the response in the file named by PALATE_BENCHMARK_ANSWER, as a Pydantic object created once.
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
