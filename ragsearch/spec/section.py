"""What every section of a space file is made of: the base of sections, and kinds of values."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; give a value")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the space file: frozen, unknown keys and kinds refused, each key documented."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # '5' is no number and 1 no boolean: what is written is what is meant
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
