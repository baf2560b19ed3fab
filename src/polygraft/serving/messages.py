"""What requests and answers say: the classes that read them, check them, and describe them in /openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, PositiveInt, ValidationError, field_validator

from polygraft.serving.limits import MOST_BEAMS, MOST_NEW_TOKENS, Refusal
from polygraft.settings import Generate, Serve, Settings

S = TypeVar("S", bound=Settings)


class Wish(Settings):
    """What a request says of how outputs are to be made; what it leaves out is as the server has it."""

    model: Annotated[str, Field(max_length=200)] | None = None
    """One of the names in /api/models; without it the first."""
    source_lang: Annotated[str, Field(max_length=20)] | None = None
    """Language of the text, as /api/models has it; without it the one that the model records."""
    target_lang: Annotated[str, Field(max_length=20)] | None = None
    """Language of the output."""
    num_beams: PositiveInt | None = None
    """Beams of the search; 1 is greedy."""
    max_new_tokens: Annotated[int, Field(ge=2)] | None = None
    """Longest output."""
    min_new_tokens: PositiveInt | None = None
    """Shortest output."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    """Above 0 longer outputs gain."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    """No n-gram of this size occurs twice in an output (0: no limit)."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    """Divides the scores of tokens that the output has already."""
    num_return_sequences: PositiveInt | None = None
    """Outputs per text, the best first; at most as many as beams."""

    def settings(self, server: Serve) -> Generate:
        """Return how outputs are made.

        Raises:
            Refusal: more than the server allows.
        """
        caps = {
            "num_beams": max(MOST_BEAMS, server.num_beams),
            "max_new_tokens": max(MOST_NEW_TOKENS, server.max_new_tokens),
        }
        given = self.model_dump(include=set(Generate.model_fields), exclude_none=True)
        for name, most in caps.items():
            if given.get(name, 0) > most:
                raise Refusal(422, f"{name}: {given[name]} is more than {most}.")
        defaults = server.model_dump(include=set(Generate.model_fields))
        settings = reading(Generate, defaults | given)
        if (settings.min_new_tokens or 0) > settings.max_new_tokens:
            raise Refusal(422, f"min_new_tokens: is more than the {settings.max_new_tokens} of max_new_tokens.")
        return settings


class TextRequest(Wish):
    """Texts to be read by a model."""

    texts: Annotated[list[str], Field(min_length=1)]
    """The texts."""

    @field_validator("texts")
    @classmethod
    def _text_alone(cls, texts: list[str]) -> list[str]:
        if any("\0" in text for text in texts):
            raise ValueError("a text has a NUL, which no text has")
        return texts

    def assert_small(self, server: Serve) -> None:
        """Raise Refusal for too many texts, too long ones, or none that has anything in it."""
        if len(self.texts) > (most := server.per_device_eval_batch_size):
            raise Refusal(413, f"texts: {len(self.texts)} are more than {most}. Send a file, or several requests.")
        if (longest := max(map(len, self.texts))) > server.max_text_characters:
            raise Refusal(413, f"texts: one of {longest:,} characters is longer than {server.max_text_characters:,}.")
        if not any(text.strip() for text in self.texts):
            raise Refusal(422, "texts: there is nothing in them.")


class FileRequest(Wish):
    """A file of texts, in the body; all else in the query of the address."""

    format: Annotated[str, Field(max_length=20)]
    """The format of the file: txt, csv, tsv, json or jsonl."""
    text_column: Annotated[str, Field(max_length=200)] = "text"
    """The column that holds the text (ignored for txt)."""
    skip_bad_rows: bool = False
    """Whether a row that cannot be read is left out, instead of refusing the file."""


def reading(kind: type[S], content: dict[str, Any] | bytes, strict: bool = True) -> S:
    """Validate what a request says, JSON or a dictionary.

    Raises:
        Refusal: whatever is wrong with it, all at once, without repeating what was sent.
    """
    try:
        if isinstance(content, bytes):
            return kind.model_validate_json(content, strict=strict)
        return kind.model_validate(content, strict=strict)
    except ValidationError as error:
        found = [(".".join(map(str, one["loc"]))[:100], one["msg"]) for one in error.errors(include_input=False)[:10]]
        raise Refusal(422, "; ".join(f"{place}: {what}" if place else what for place, what in found)) from None


class WrittenText(Settings):
    """An output."""

    text: str
    """What the model wrote."""
    tokens: int
    """Its length in the model's tokens."""
    characters: int
    """Its length in characters."""


class TextResult(Settings):
    """What became of a text."""

    outputs: list[WrittenText]
    """The outputs, the best first."""
    source_tokens: int
    """The length of the text in the model's tokens, special ones included."""
    cut: bool
    """Whether the end of the text was left out, since the model reads no more."""


class TextAnswer(Settings):
    """What became of all texts of a request, in their order."""

    model: str
    """The model that was used."""
    source_lang: str
    """The language that the texts were read as."""
    target_lang: str
    """The language of the outputs."""
    seconds: float
    """How long decoding took, together with what was decoded beside it."""
    results: list[TextResult]
    """One for each text."""


class ModelDescription(Settings):
    """A model that is served."""

    name: str
    """What requests call it."""
    languages: list[str]
    """All that it can be told."""
    sources: list[str]
    """Those that it was trained to read, as far as it records them."""
    targets: list[str]
    """Those that it was trained to write."""
    needs_source: bool
    """Whether a request has to say which language its texts are in."""
    needs_target: bool
    """Whether it has to say in which language outputs are to be."""
