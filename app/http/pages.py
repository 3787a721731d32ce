"""Pages of numbered rows, newest first: the query parameters, and the cursor in the response."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field

PageLimit = Annotated[int, Query(description="Entries per page.", ge=1, le=100)]
_NUMBER = r"^[0-9]{1,9}$"
PageCursor = Annotated[
    str | None, Query(description="`next_cursor` of the previous page.", pattern=_NUMBER, examples=["7"])
]
NextCursor = Annotated[
    str | None, Field(description="Pass it as `cursor` for the next page; null on the last.", examples=[None])
]
