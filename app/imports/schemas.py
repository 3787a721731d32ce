"""What every bulk write answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class BatchCountsOut(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(from_attributes=True)

    created: int = Field(description="New ones.", examples=[2])
    updated: int = Field(description="Replaced ones.", examples=[1])
    unchanged: int = Field(description="Those stored exactly so before.", examples=[0])
    revision: int = Field(description="The newest revision after the write.", examples=[4711])


class BadLineOut(BaseModel):
    """A line of an import that could not be used."""

    line: int = Field(description="Its number; the first line of the file is 1.", examples=[17])
    reason: str = Field(examples=["rating: must be a number from 0.5 to 5"])
    text: str = Field(description="How it begins.", examples=["1,31,9.5,1260759144"])


class ImportReport(BaseModel):
    """What became of the lines of an import."""

    format: str | None = Field(None, description="How the file was read; null when it was empty.", examples=["csv"])
    lines: int = Field(0, description="Lines that held something, the header left out.", examples=[100836])
    created: int = Field(0, examples=[100836])
    updated: int = Field(0, examples=[0])
    unchanged: int = Field(0, description="Lines that say what was stored before.", examples=[0])
    duplicates: int = Field(0, description="Lines overtaken by a later line of the same batch.", examples=[0])
    bad: int = Field(0, description="Lines that could not be used.", examples=[0])
    bad_lines: list[BadLineOut] = Field([], description="The first of them.")
    revision: int = Field(0, description="The newest revision after the import.", examples=[100836])
    stopped_because: str | None = Field(
        None,
        description="Why the import ended early; the counts then say what was committed. Null: it read everything.",
        examples=[None],
    )
