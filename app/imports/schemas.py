"""What every bulk write answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class BatchCountsOut(BaseModel):
    """The outcome of a batch."""

    model_config = ConfigDict(from_attributes=True)

    created: int = Field(description="Number of new ones.", examples=[2])
    updated: int = Field(description="Number of replaced ones.", examples=[1])
    unchanged: int = Field(description="Number of those that were already stored.", examples=[0])
    revision: int = Field(description="The newest revision after the write.", examples=[4711])


class BadLineOut(BaseModel):
    """An invalid line of an import."""

    line: int = Field(description="Line number; the first line of the file is 1.", examples=[17])
    reason: str = Field(examples=["rating: must be a number from 0.5 to 5"])
    text: str = Field(description="Beginning of the line.", examples=["1,31,9.5,1260759144"])


class ImportReport(BaseModel):
    """The outcome of an import."""

    format: str | None = Field(None, description="The format of the file; null if it was empty.", examples=["csv"])
    lines: int = Field(0, description="Non-empty lines, without the header.", examples=[100836])
    created: int = Field(0, examples=[100836])
    updated: int = Field(0, examples=[0])
    unchanged: int = Field(0, description="Lines whose content was already stored.", examples=[0])
    duplicates: int = Field(0, description="Lines superseded by a later line of the same batch.", examples=[0])
    bad: int = Field(0, description="Invalid lines.", examples=[0])
    bad_lines: list[BadLineOut] = Field([], description="The first invalid lines.")
    revision: int = Field(0, description="The newest revision after the import.", examples=[100836])
    stopped_because: str | None = Field(
        None,
        description="Why the import ended early; the counts cover what was committed. Null: the whole file was read.",
        examples=[None],
    )
