"""What a person types, against the JSON Schema that pydantic writes for what a handler expects."""

from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from tieline.errors import BadPayload
from tieline.services.schema import described, fitting, misfit


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Offer(BaseModel):
    cents: int = Field(ge=0)
    note: str | None = None
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("expects", "text", "value"),
    [
        (str, "yes", "yes"),
        (str, "true", "true"),
        (str, '"quoted"', '"quoted"'),
        (str, "", ""),
        (bool, "true", True),
        (int, "12", 12),
        (float, "1.5", 1.5),
        (float, "2", 2),
        (int | str, "12", 12),
        (int | str, "twelve", "twelve"),
        (bool | None, "null", None),
        (Literal["a", "b"], "b", "b"),
        (Colour, "blue", "blue"),
        (date, "2026-02-28", "2026-02-28"),
        (list[int], "[1, 2]", [1, 2]),
        (Offer, '{"cents": 5}', {"cents": 5}),
        (Offer, '{"cents": 5, "note": null, "colour": "blue"}', {"cents": 5, "note": None, "colour": "blue"}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Any, "3", 3),
    ],
)
def test_what_fits_is_what_the_handler_gets(expects: Any, text: str, value: object) -> None:
    adapter = TypeAdapter(expects)
    assert fitting(text, adapter.json_schema()) == value
    adapter.validate_python(value)


@pytest.mark.parametrize(
    ("expects", "text", "why"),
    [
        (bool, "yes", "it is not a boolean, expected true or false"),
        (bool, "1", "it is not a boolean"),
        (int, "1.5", "it is not an integer, expected a whole number"),
        (int, "true", "it is not an integer"),
        (Literal["a", "b"], "c", 'it is not one of ["a", "b"], expected "a" or "b"'),
        (int | None, "x", "it is none of a whole number or null"),
        (Annotated[str, Field(min_length=3)], "ab", "its length is less than 3"),
        (Annotated[str, Field(pattern="^[a-z]+$")], "A1", "it does not match"),
        (date, "tomorrow", "it is not a date in ISO 8601"),
        (list[int], '[1, "a"]', "item 2 is not an integer"),
        (Offer, "5", 'it is not an object, expected JSON {"cents": …, "note": …, "colour": …}'),
        (Offer, "{}", "cents is missing"),
        (Offer, '{"cents": -1}', "cents is less than 0"),
        (Offer, '{"cents": 1, "colour": "green"}', "colour is not one of"),
        (dict[str, int], '{"a": "b"}', "a is not an integer"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(expects: Any, text: str, why: str) -> None:
    with pytest.raises(BadPayload) as refusal:
        fitting(text, TypeAdapter(expects).json_schema())
    assert why in str(refusal.value)


def test_a_reference_to_nothing_and_an_empty_schema_ask_for_nothing() -> None:
    assert misfit(3, {"$ref": "#/$defs/Gone"}) is None
    assert misfit(3, {}) is None
    assert described({}) == "anything"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_any_value_is_judged_without_failing(value: object) -> None:
    for expects in (str, int, Offer, list[int | str], dict[str, Offer]):
        misfit(value, TypeAdapter(expects).json_schema())
