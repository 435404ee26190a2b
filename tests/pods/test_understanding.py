"""What callers say, as tables: numbers, times, telephone numbers, wishes; and whole conversations."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from oneroof.office.hours import LOCAL
from oneroof.understanding import (
    Book,
    Escalate,
    Line,
    Lookup,
    Research,
    Rules,
    Search,
    Turn,
    Voicemail,
    Wish,
    say_slot,
)
from oneroof.understanding.numbers import clean, spoken_numbers
from oneroof.understanding.phone import read_phone
from oneroof.understanding.when import read_when, slots_in

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=LOCAL)  # a Wednesday
PHONE = "+12065550142"


def at(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=LOCAL)


async def office(*lines: str | tuple[str, ...], now: datetime = NOW) -> list[Turn]:
    """The turns of a call. A tuple stands for homes that the office names before the next line."""
    transcript: list[Line] = []
    turns: list[Turn] = []
    for line in lines:
        if isinstance(line, tuple):
            transcript.append(Line(who="office", text="I found some homes.", offers=list(line)))
            continue
        transcript.append(Line(who="caller", text=line))
        turns.append(await Rules()(transcript, now))
        transcript.append(Line(who="office", text=turns[-1].say))
    return turns


def wishes(turns: Iterable[Turn]) -> list[Wish]:
    return [wish for turn in turns for wish in turn.wants]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("three bedrooms", "3 bedrooms"),
        ("listing ten forty two", "listing 10 42"),
        ("listing one oh four two", "listing 1 0 4 2"),
        ("eight hundred thousand", "800000"),
        ("six hundred and fifty thousand", "650000"),
        ("a million two hundred thousand", "1200000"),
        ("1.2 million", "1200000"),
        ("one point two five million", "1250000"),
        ("half a million", "500000"),
        ("under 900k", "under 900000"),
        ("$850,000", "$850000"),
        ("two and a half baths", "2.5 baths"),
        ("fifteen hundred square feet", "1500 square feet"),
        ("the twenty-second", "the 22nd"),
        ("double five oh one", "5 5 0 1"),
        ("the second one", "the 2nd one"),
        ("that one", "that one"),
        ("just a second", "just a second"),
        ("oh hello", "oh hello"),
        ("3 p.m.", "3 pm"),
    ],
)
def test_spoken_numbers(said: str, read: str) -> None:
    assert spoken_numbers(clean(said)) == read


@pytest.mark.parametrize(
    ("said", "slot"),
    [
        ("friday at three", at(27, 15)),
        ("tomorrow at half past two in the afternoon", at(26, 14, 30)),
        ("next tuesday at 10:30", at(1, 10, 30, month=12)),
        ("the ninth at quarter to five", at(9, 16, 45, month=12)),
        ("in two hours", at(25, 16)),
        ("in an hour and a half", at(25, 15, 30)),
        ("half an hour from now", at(25, 14, 30)),
        ("saturday morning at ten", at(28, 10)),
        ("monday, ten thirty am", at(30, 10, 30)),
        ("10:30 a.m. on the first of december", at(1, 10, 30, month=12)),
        ("december 3rd at noon", at(3, 12, month=12)),
        ("11/30 at four", at(30, 16)),
        ("2026-12-01 15:00", at(1, 15, month=12)),
        ("in three days at eleven", at(28, 11)),
        ("the day after tomorrow at twenty past one", at(27, 13, 20)),
        ("a week from friday at 2", at(4, 14, month=12)),
        ("quarter to one on thursday", at(26, 12, 45)),
        ("this afternoon at four", at(25, 16)),
        ("sunday 3", at(29, 15)),
        ("friday five thirty", at(27, 17, 30)),
        ("at ten oh five on friday", at(27, 10, 5)),
        ("five o'clock this friday", at(27, 17)),
        ("saturday at 16:15", at(28, 16, 15)),
    ],
)
def test_days_and_times(said: str, slot: datetime) -> None:
    when, _ = read_when(spoken_numbers(clean(said)), NOW)
    assert (when.day, when.clock) == (slot.date(), slot.time())


@pytest.mark.parametrize("said", ["yesterday at three", "last friday", "two days ago", "february thirty first at two"])
def test_days_that_cannot_be(said: str) -> None:
    when, _ = read_when(spoken_numbers(clean(said)), NOW)
    assert when.impossible


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("two oh six five five five oh one four two", PHONE),
        ("206-555-0142", PHONE),
        ("(206) 555 0142", PHONE),
        ("206.555.0142 please", PHONE),
        ("+1 206 555 0142", PHONE),
        ("one two oh six five five five zero one four two", PHONE),
        ("two oh six, triple five, oh one forty two", PHONE),
        ("my number is 2065550142", PHONE),
        ("it is +44 20 7946 0958", "+442079460958"),
        ("listing 1042, 206 555 0142", PHONE),
        ("friday at 3, 206 555 0142", PHONE),
    ],
)
def test_telephone_numbers(said: str, number: str) -> None:
    phone, rest = read_phone(spoken_numbers(clean(said)))
    assert phone.number == number
    assert "0142" not in rest
    assert number not in repr(phone)


@pytest.mark.parametrize("said", ["123", "555 0142", "999 999 9999", "my number is 12345", "206 555 01429 7"])
def test_numbers_that_cannot_be_called(said: str) -> None:
    phone, _ = read_phone(said, expected=True)
    assert phone.impossible


_SEARCHES: list[tuple[str, Search]] = [
    (
        "I'm looking for a three bedroom in Ballard under eight hundred thousand",
        Search(place="ballard", beds=3, max_price=800_000),
    ),
    ("houses in fremont under 900k", Search(place="fremont", max_price=900_000)),
    ("waterfront in magnolia up to 2 million", Search(place="magnolia", max_price=2_000_000, waterfront=True)),
    ("2 beds 1.5 baths queen anne", Search(place="queen anne", beds=2, baths=1.5)),
    ("at least 1,800 square feet in wallingford", Search(place="wallingford", min_sqft=1800)),
    ("between 600 and 800 thousand in ravenna", Search(place="ravenna", min_price=600_000, max_price=800_000)),
    ("do you have anything in the U District under 1.2 million", Search(place="u district", max_price=1_200_000)),
    ("my budget is 750 thousand", Search(max_price=750_000)),
    ("something in West Seattle for less than seven fifty", Search(place="west seattle", max_price=750_000)),
    ("not ballard, fremont, three bedrooms", Search(place="fremont", beds=3)),
    ("show me a four bedroom in 98103", Search(place="98103", beds=4)),
    ("I want to buy a house in Tukwila", Search(place="tukwila")),
    ("we need two or three bedrooms near green lake", Search(place="green lake", beds=2)),
    ("homes over one million in laurelhurst", Search(place="laurelhurst", min_price=1_000_000)),
    (
        "I can afford about half a million, what can I get in Rainier Beach",
        Search(place="rainier beach", max_price=500_000),
    ),
    ("got anything on the water?", Search(waterfront=True)),
    ("a place in seattle with 3 bathrooms", Search(place="seattle", baths=3)),
]

_ASKS: list[tuple[str, list[Wish]]] = [
    ("what is 1042 worth", [Research(home="1042")]),
    ("is listing 1042 overpriced?", [Research(home="1042")]),
    ("comps for ten forty two please", [Research(home="1042")]),
    ("what did similar homes near listing 1042 sell for", [Research(home="1042")]),
    ("what's the value of parcel 0001800010", [Research(home="0001800010")]),
    ("is 7129300520 worth it", [Research(home="7129300520")]),
    ("what are 1042 and 1077 worth", [Research(home="1042"), Research(home="1077")]),
    ("how much should we offer for 1103", [Research(home="1103")]),
    ("what do you think 1042 would sell for", [Research(home="1042")]),
    ("market value of listing eleven oh three", [Research(home="1103")]),
    ("how does 1042 compare with recent sales", [Research(home="1042")]),
    ("tell me about listing 1042", [Lookup(home="1042")]),
    ("how many bedrooms does 1042 have", [Lookup(home="1042")]),
    ("does 1042 have three bedrooms", [Lookup(home="1042")]),
    ("what about 1103", [Lookup(home="1103")]),
    ("how much is listing one one oh three", [Lookup(home="1103")]),
    ("look up parcel 000180-0010", [Lookup(home="0001800010")]),
    ("tell me about 4512 Woodland Park Ave N", [Lookup(home="4512 woodland park ave n")]),
    ("1042", [Lookup(home="1042")]),
    ("is 1042 still available", [Lookup(home="1042")]),
    ("I saw listing number ten seventy seven online and want to know more", [Lookup(home="1077")]),
    ("tell me about 1042 and what is 1077 worth", [Lookup(home="1042"), Research(home="1077")]),
    ("I want to speak to a human", [Escalate(reason="the caller asks for a person")]),
    ("is there anyone I can actually talk to", [Escalate(reason="the caller asks for a person")]),
    ("I don't want to talk to a machine", [Escalate(reason="the caller asks for a person")]),
    ("tell my agent that i accept the offer", [Voicemail(note="tell my agent that i accept the offer")]),
    ("agent please", [Escalate(reason="the caller asks for a person")]),
    ("could somebody put me through to a person", [Escalate(reason="the caller asks for a person")]),
    ("do you speak spanish", [Escalate(reason="the caller asks for another language")]),
    (
        "get me a real person, my number is 206 555 0142",
        [Escalate(reason="the caller asks for a person", phone=PHONE)],
    ),
    (
        "leave a message that i will be late, 206 555 0142",
        [Voicemail(phone=PHONE, note="i will be late, 206 555 0142")],
    ),
]

_BOOKINGS: list[tuple[str, Book]] = [
    ("book 1042 friday at three, 206 555 0142", Book(home="1042", slot=at(27, 15), phone=PHONE)),
    (
        "can I see listing ten forty two tomorrow at ten, my number is two oh six five five five oh one four two",
        Book(home="1042", slot=at(26, 10), phone=PHONE),
    ),
    (
        "my name is Ana Lopez, I'd like a viewing of 1077 on saturday at half past one, call me at 206-555-0142",
        Book(home="1077", slot=at(28, 13, 30), phone=PHONE, name="Ana Lopez"),
    ),
    (
        "schedule a tour of parcel 0001800010 monday at 11:15 206 555 0142",
        Book(home="0001800010", slot=at(30, 11, 15), phone=PHONE),
    ),
    ("any chance of a showing at 1042 friday, say four thirty, it's 206 555 0142", Book(
        home="1042", slot=at(27, 16, 30), phone=PHONE
    )),
    ("put me down for 1103 in two hours, (206) 555-0142", Book(home="1103", slot=at(25, 16), phone=PHONE)),
    ("this is Sam calling from 206 555 0142, show me 1042 on sunday at noon", Book(
        home="1042", slot=at(29, 12), phone=PHONE, name="Sam"
    )),
]  # fmt: skip


@pytest.mark.parametrize(("said", "wish"), [(said, [wish]) for said, wish in _SEARCHES])
async def test_searches(said: str, wish: list[Wish]) -> None:
    assert wishes(await office(said)) == wish


@pytest.mark.parametrize(("said", "wish"), _ASKS)
async def test_questions_and_people(said: str, wish: list[Wish]) -> None:
    assert wishes(await office(said)) == wish


@pytest.mark.parametrize(("said", "wish"), [(said, [wish]) for said, wish in _BOOKINGS])
async def test_bookings_in_one_line(said: str, wish: list[Wish]) -> None:
    assert wishes(await office(said)) == wish


_READ_BACK: list[tuple[str, str]] = [
    ("a spanish style house in ballard", '"spanish style". Shall I look for homes in Ballard?'),
    ("We are moving next week, 3 bedrooms in Leschi", '"next week". Shall I look for homes in Leschi with 3 bedrooms?'),
    ("3 beds in Balard", "Shall I look for homes in Ballard with 3 bedrooms?"),
    ("find 3 bedrooms in Ballard with a garage", '"garage". Shall I look for homes in Ballard with 3 bedrooms?'),
    ("homes in Ballard, at most 3 bedrooms", "Shall I look for homes in Ballard with 3 bedrooms?"),
    ("book 1042 next friday at three", "Did you mean a viewing of 1042 on Friday, December 4 at 3:00 pm?"),
    ("book 1042 on the 31st at noon", "Did you mean a viewing of 1042 on Thursday, December 31 at 12:00 pm?"),
    ("book 1042 around three on friday", "Did you mean a viewing of 1042 on Friday, November 27 at 3:00 pm?"),
    ("book 1042 on fridya at three", "Did you mean a viewing of 1042 on Friday, November 27 at 3:00 pm?"),
    ("book 1042 friday at three unless it rains", '"unless it rains". Did you mean a viewing of 1042 on Friday'),
    ("book 1042 wednesday at four", "Did you mean a viewing of 1042 on Wednesday, November 25 at 4:00 pm?"),
]


@pytest.mark.parametrize(("said", "question"), _READ_BACK)
async def test_what_is_not_sure_is_read_back_and_done_after_a_yes(said: str, question: str) -> None:
    turns = await office(said, "206 555 0142", "yes please")
    assert question in turns[0].say
    assert turns[0].confirms
    assert [bool(turn.wants) for turn in turns] == [False, False, True]
    no, again = (await office(said, "no, that's wrong"))[1:], await office(said, "no, that's wrong", "yes")
    assert not no[0].wants
    assert not again[2].wants  # there is nothing to say yes to any more


@pytest.mark.parametrize("answer", ["yes", "december fourth, yes", "yes, friday the fourth at three", "that's right"])
async def test_what_was_read_back_may_be_said_again(answer: str) -> None:
    turns = await office("book 1042 next friday at three, 206 555 0142", answer)
    assert turns[1].wants == (Book(home="1042", slot=at(4, 15, month=12), phone=PHONE),)


@pytest.mark.parametrize("answer", ["yes but at four", "no, the third", "that's the 27th, right?"])
async def test_another_answer_is_read_back_again(answer: str) -> None:
    turns = await office("book 1042 next friday at three, 206 555 0142", answer)
    assert not turns[1].wants
    assert turns[1].confirms


async def test_it_is_asked_about_where_several_homes_were_spoken_of() -> None:
    turns = await office("tell me about 1042 and 1077", ("1042",), ("1077",), "book it friday at three", "1042", PHONE)
    assert "Which home" in turns[1].say
    assert turns[-1].wants == (Book(home="1042", slot=at(27, 15), phone=PHONE),)


async def test_the_newest_of_several_telephone_numbers_counts() -> None:
    for said in ("206 555 0100, no sorry, 206 555 0142", "not 425 555 0100, 206 555 0142"):
        turns = await office("book 1042 friday at three", said)
        assert turns[1].wants == (Book(home="1042", slot=at(27, 15), phone=PHONE),)


async def test_a_viewing_that_replaces_another_says_so_or_asks() -> None:
    booked = "book 1042 friday at three, 206 555 0142"
    (sure,) = (await office(booked, "1077 instead"))[1:]
    assert sure.wants == (Book(home="1077", slot=at(27, 15), phone=PHONE, instead_of="1042"),)
    (asked,) = (await office(booked, "actually, can I see 1077"))[1:]
    assert asked.say == "Did you mean a viewing of 1077 on Friday, November 27 at 3:00 pm, instead of 1042?"
    (second,) = (await office(booked, "and also 1077 the same day at four"))[1:]
    assert second.wants == (Book(home="1077", slot=at(27, 16), phone=PHONE),)


@pytest.mark.parametrize(
    ("said", "word", "reason"),
    [
        ("Guten Tag, ich suche ein Haus", "Englisch", "the caller speaks German"),
        ("Hola, busco una casa en Ballard", "inglés", "the caller speaks Spanish"),
        ("Bonjour, je cherche une maison", "anglais", "the caller speaks French"),
    ],
)
async def test_other_languages_are_answered_in_kind(said: str, word: str, reason: str) -> None:
    turns = await office(said, "206 555 0142")
    assert word in turns[0].say
    assert wishes(turns) == [Escalate(reason=reason), Escalate(reason=reason, phone=PHONE)]


@pytest.mark.parametrize(
    "said", ["I want to sell my house", "we're selling our condo in Ballard", "what is my home worth"]
)
async def test_who_sells_is_called_back(said: str) -> None:
    assert wishes(await office(said)) == [Escalate(reason="the caller wants to sell a home")]


OFFERS = ("1042", "1077", "1103")


@pytest.mark.parametrize(
    ("said", "home"),
    [
        ("tell me about the second one", "1077"),
        ("more about the last one", "1103"),
        ("the first", "1042"),
        ("what about number two", "1077"),
        ("tell me about option 3", "1103"),
    ],
)
async def test_offers_are_picked_by_their_place(said: str, home: str) -> None:
    assert wishes(await office(OFFERS, said)) == [Lookup(home=home)]


async def test_the_answer_about_one_home_leaves_the_list_to_pick_from() -> None:
    turns = await office(OFFERS, "what is the second one worth", ("1077",), "and the first?", "book it friday")
    assert wishes(turns) == [Research(home="1077"), Research(home="1042")]
    again = await office(OFFERS, "tell me about the third", ("1103",), "book it friday at 3, 206 555 0142")
    assert wishes(again)[1:] == [Book(home="1103", slot=at(27, 15), phone=PHONE)]


@pytest.mark.parametrize(
    ("said", "search"),
    [
        ("Tukwila", Search(place="tukwila")),
        ("3 bedrooms", Search(beds=3)),
        ("in georgetown", Search(place="georgetown")),
    ],
)
async def test_a_search_with_nothing_to_go_by_asks_where(said: str, search: Search) -> None:
    turns = await office("I want to buy a house", said)
    assert "Which neighborhood" in turns[0].say
    assert wishes(turns) == [search]


async def test_one_offer_is_it_and_several_are_asked_about() -> None:
    assert wishes(await office(("1077",), "what is it worth")) == [Research(home="1077")]
    several = await office(OFFERS, "what is it worth", "the third")
    assert "Which one" in several[0].say
    assert wishes(several) == [Research(home="1103")]


async def test_a_booking_asks_for_one_missing_thing_at_a_time() -> None:
    turns = await office("I want to book a viewing", "1042", "friday", "three", "206 555 0142")
    assert [turn.wants for turn in turns[:-1]] == [()] * 4
    assert ["Which home" in turns[0].say, "Which day" in turns[1].say, "What time" in turns[2].say] == [True] * 3
    assert "telephone" in turns[3].say
    assert turns[4].wants == (Book(home="1042", slot=at(27, 15), phone=PHONE),)


@pytest.mark.parametrize(
    ("correction", "book"),
    [
        ("no wait, make it thursday", Book(home="1042", slot=at(26, 15), phone=PHONE)),
        ("actually at four", Book(home="1042", slot=at(27, 16), phone=PHONE)),
        ("sorry, I meant 1077", Book(home="1077", slot=at(27, 15), phone=PHONE, instead_of="1042")),
        ("use 425 555 0100 instead", Book(home="1042", slot=at(27, 15), phone="+14255550100")),
    ],
)
async def test_the_newest_value_wins_after_a_booking(correction: str, book: Book) -> None:
    turns = await office("book 1042 friday at three, 206 555 0142", correction)
    assert turns[1].wants == (book,)


async def test_the_other_one_is_the_one_before_or_the_other_of_two() -> None:
    two = await office(("1042", "1077"), "book the first one friday at three, 206 555 0142", "actually the other one")
    assert [wish.home for wish in wishes(two) if isinstance(wish, Book)] == ["1042", "1077"]


async def test_what_was_wished_is_not_wished_again() -> None:
    turns = await office(
        "book 1042 friday at three, 206 555 0142",
        "yes friday at three",
        "great",
        "is 1042 worth it",
        "what is 1042 worth",
    )
    assert [len(turn.wants) for turn in turns] == [1, 0, 0, 1, 0]


async def test_an_alternative_that_the_office_offers_is_taken() -> None:
    first, second = at(27, 16), at(30, 10)
    transcript = [
        Line(who="caller", text="book 1042 friday at three, 206 555 0142"),
        Line(who="office", text=f"That is taken. I could do {say_slot(first)} or {say_slot(second)}."),
        Line(who="caller", text="the second one works"),
    ]
    assert (await Rules()(transcript, NOW)).wants == (Book(home="1042", slot=second, phone=PHONE),)
    assert slots_in(transcript[1].text, NOW) == (first, second)


async def test_a_pick_made_before_the_homes_are_named_waits_for_them() -> None:
    turns = await office("find 3 beds in ballard and book the second one friday at 3, 206 555 0142", OFFERS, "thanks")
    assert wishes(turns)[1:] == [Book(home="1077", slot=at(27, 15), phone=PHONE)]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("book 1042 yesterday at three", "That day is over"),
        ("book 1042 today at nine in the morning", "already passed"),
        ("book 1042 tomorrow at eleven pm", "between nine in the morning"),
        ("book 1042 tomorrow at six", "half past five"),
        ("book 1042 friday at three, my number is 12345", "I cannot call that number"),
    ],
)
async def test_what_cannot_be_is_answered_with_a_question(said: str, answer: str) -> None:
    (turn,) = await office(said)
    assert answer in turn.say
    assert turn.say.endswith("?")
    assert not turn.wants


@pytest.mark.parametrize("said", ["forget it", "never mind", "cancel that"])
async def test_an_open_booking_is_dropped(said: str) -> None:
    turns = await office("book 1042 friday", said, "206 555 0142", "at three")
    assert not wishes(turns)


async def test_cancelling_what_was_booked_needs_a_person() -> None:
    turns = await office("book 1042 friday at three, 206 555 0142", "please cancel my viewing")
    assert turns[1].wants == (Escalate(reason="the viewing of 1042 is to be cancelled", phone=PHONE),)


async def test_the_third_silence_ends_the_call_and_a_word_between_does_not() -> None:
    assert [turn.hang_up for turn in await office("", "...", " ")] == [False, False, True]
    assert not any(turn.hang_up for turn in await office("", "", "what is 1042 worth", "", ""))


async def test_gibberish_asks_again_and_then_gets_a_person() -> None:
    turns = await office("asdf qwer", "flurb", "gnarf zzz", "blib", "blab", "blub")
    assert wishes(turns) == [Escalate(reason="the caller could not be understood")]
    assert [bool(turn.wants) for turn in turns[:3]] == [False, False, True]
    assert turns[-1].hang_up  # nobody is kept on the line for ever


@pytest.mark.parametrize("said", ["thank you", "goodbye", "no thanks, bye", "that's all, have a nice day"])
async def test_goodbyes_end_the_call(said: str) -> None:
    turns = await office("what is 1042 worth", said)
    assert turns[-1].hang_up
    assert not turns[-1].wants


async def test_a_message_is_taken_as_it_is_spoken() -> None:
    turns = await office("can I leave a message", "Book 1042? The Heating is broken!", "206 555 0142")
    note = "Book 1042? The Heating is broken!"
    assert wishes(turns) == [Voicemail(note=note), Voicemail(note=note, phone=PHONE)]


async def test_after_hours_a_person_is_noted_and_a_message_offered() -> None:
    night = at(25, 22)
    turns = await office("let me talk to an agent", "The roof of my house leaks badly", now=night)
    assert "closed" in turns[0].say
    assert [wish.kind for wish in wishes(turns)] == ["escalate", "voicemail"]


async def test_the_same_transcript_gives_the_same_turn() -> None:
    lines = [Line(who="caller", text="book 1042 friday at three"), Line(who="caller", text="206 555 0142")]
    assert await Rules()(lines, NOW) == await Rules()(lines, NOW)


async def test_wishes_survive_json_in_camel_case() -> None:
    turns = await office("find 3 beds in ballard under 900k", "book 1042 friday at three, 206 555 0142")
    for turn in turns:
        assert TypeAdapter(Turn).validate_json(turn.model_dump_json(by_alias=True)) == turn
    assert "maxPrice" in turns[0].model_dump_json(by_alias=True)


async def test_telephone_numbers_are_neither_spoken_back_nor_in_reprs() -> None:
    turns = await office("speak to an agent", "206 555 0142", "book 1042 friday at three", "leave a message", "call me")
    for turn in turns:
        assert "555" not in turn.say
        assert "555" not in repr(turn)


async def test_a_time_without_a_zone_is_an_error() -> None:
    with pytest.raises(ValueError, match="time zone"):
        await Rules()([], datetime(2026, 11, 25, 14))


_PHRASES = st.sampled_from(
    [said for said, _ in _SEARCHES] + [said for said, _ in _ASKS] + [said for said, _ in _BOOKINGS] + ["", "forget it"]
)
_VOCABULARY = """book see 1042 friday at three half past quarter to the second one other it no yes thanks bye 206 555
0142 oh two million point under ballard worth about message person in hours ago 31st february 99999999999 $ , . -"""
_WORDS = st.sampled_from(_VOCABULARY.split())
_SAID = st.one_of(
    st.text(max_size=80),
    _PHRASES,
    st.lists(_WORDS, max_size=14).map(" ".join),
    st.text("0123456789 .,:/-+", max_size=40),
)
_LINES = st.lists(
    st.builds(
        Line,
        who=st.sampled_from(["caller", "office"]),
        text=_SAID,
        offers=st.lists(st.sampled_from(OFFERS), max_size=3),
    ),
    max_size=8,
)


@given(_LINES, st.integers(0, 60 * 24 * 400))
@example([Line(who="caller", text="x" * 10_000)], 0)
@example([Line(who="caller", text="1 " * 5_000)], 0)
@example([Line(who="caller", text="\x00\x1b[2J\u202e" * 20)], 0)
async def test_any_lines_give_a_turn_that_speaks(lines: list[Line], minutes: int) -> None:
    now = NOW + timedelta(minutes=minutes)
    turn = await Rules()(lines, now)
    assert turn.say.strip()
    assert turn == await Rules()(lines, now)
    for wish in turn.wants:
        if isinstance(wish, Book):
            assert wish.slot > now
            assert wish.slot.tzinfo is LOCAL
