"""For any combination of phrases: what is booked or searched is what was said, or the office asks."""

from datetime import date, datetime, time, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from oneroof.office.hours import LOCAL
from oneroof.understanding import Book, Line, Rules, Search, Turn
from oneroof.understanding.numbers import word_set

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=LOCAL)  # a Wednesday
PHONE = "206 555 0142"

DAYS = {
    "tomorrow": date(2026, 11, 26),
    "the day after tomorrow": date(2026, 11, 27),
    "on Friday": date(2026, 11, 27),
    "this Saturday": date(2026, 11, 28),
    "next Friday": date(2026, 12, 4),
    "next Tuesday": date(2026, 12, 1),
    "Tuesday week": date(2026, 12, 8),
    "a week on Tuesday": date(2026, 12, 8),
    "a week from Friday": date(2026, 12, 4),
    "two weeks on Saturday": date(2026, 12, 12),
    "tomorrow week": date(2026, 12, 3),
    "a week today": date(2026, 12, 2),
    "in a fortnight": date(2026, 12, 9),
    "in ten days": date(2026, 12, 5),
    "on the 31st": date(2026, 12, 31),
    "on the ninth": date(2026, 12, 9),
    "on December 8th": date(2026, 12, 8),
    "on the eighth of December": date(2026, 12, 8),
    "on Tuesday the 8th": date(2026, 12, 8),
    "on Tuesday, December 8": date(2026, 12, 8),
    "on the first Monday in December": date(2026, 12, 7),
    "on the last Friday of January": date(2027, 1, 29),
    "on the second Saturday of next month": date(2026, 12, 12),
    "next but one Tuesday": date(2026, 12, 8),
    "on 12/8": date(2026, 12, 8),
    "on 2026-12-08": date(2026, 12, 8),
    "Friday of next week": date(2026, 12, 4),
    "on New Year's Eve": date(2026, 12, 31),
}
NO_DAY = (
    "next week", "at the end of the month", "this weekend", "some time in December", "Monday or Tuesday",
    "before Friday",
    "any day but Friday", "not on Friday", "on February 31st", "yesterday", "after Christmas", "on a weekday", "",
    "on the third Friday", "early next week", "by Monday", "the Friday before Christmas",
)  # fmt: skip
CLOCKS = {
    "at three": time(15),
    "at half four": time(16, 30),
    "at half past two": time(14, 30),
    "at quarter to five": time(16, 45),
    "at a quarter past ten": time(10, 15),
    "at noon": time(12),
    "at 9:30": time(9, 30),
    "at 10 am": time(10),
    "at ten thirty": time(10, 30),
    "at four in the afternoon": time(16),
    "at 16:15": time(16, 15),
    "at twenty to three": time(14, 40),
    "at 1 o'clock": time(13),
    "first thing": time(9),
    "around eleven": time(11),
    "at three-ish": time(15),
    "at 1500 hours": time(15),
}
NO_CLOCK = (
    "after three", "before noon", "between two and four", "by five", "in the morning", "at lunchtime",
    "at three or four",
    "from 2 to 4", "at ten to", "any time", "no later than five", "at six in the evening", "at midnight", "",
    "an hour later", "not at three", "after work",
)  # fmt: skip
OPENINGS = (
    "book 1042", "can I see 1042", "I'd like a viewing of listing 1042", "um, could you put me down for 1042",
    "please schedule a tour of ten forty two", "hello, my wife and I would like to visit 1042",
)  # fmt: skip
# What nobody knows what to do with: whatever is understood besides is read back.
ALIEN = (
    "unless it rains", "but only with the owner", "except the garden", "without the kids", "not the basement",
    "or whatever's free",
    "if the dog can come", "on the 5th floor", "with 7 friends", "and 45 more", "never mind the noise",
    "for the third time",
    "either way", "opposite the church", "xyzzy", "half of us", "minus two", "in name only",
)  # fmt: skip


async def heard(*lines: str) -> list[Turn]:
    transcript: list[Line] = []
    turns: list[Turn] = []
    for text in lines:
        transcript.append(Line(who="caller", text=text))
        turns.append(await Rules()(transcript, NOW))
        transcript.append(Line(who="office", text=turns[-1].say))
    return turns


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(OPENINGS), st.sampled_from(sorted(DAYS)), st.sampled_from(sorted(CLOCKS)), st.booleans())
async def test_a_booking_is_just_what_was_said(opening: str, day: str, clock: str, clock_first: bool) -> None:
    when = f"{clock}, {day}" if clock_first else f"{day} {clock}"
    turns = await heard(f"{opening} {when}", PHONE, "yes", PHONE)
    wants = [wish for turn in turns for wish in turn.wants]
    expected = datetime.combine(DAYS[day], CLOCKS[clock], LOCAL)
    assert [(wish.home, wish.slot) for wish in wants if isinstance(wish, Book)] == [("1042", expected)]
    assert len(wants) == 1


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(OPENINGS),
    st.sampled_from([*NO_DAY, *sorted(DAYS)]),
    st.sampled_from([*NO_CLOCK, *sorted(CLOCKS)]),
    st.booleans(),
)
async def test_without_a_day_or_a_time_nothing_is_booked(opening: str, day: str, clock: str, clock_first: bool) -> None:
    if day in DAYS and clock in CLOCKS:
        return
    when = f"{clock}, {day}" if clock_first else f"{day} {clock}"
    turns = await heard(f"{opening} {when}", PHONE, "yes")
    assert not [wish for turn in turns for wish in turn.wants], f"{opening} {when}"
    assert "?" in turns[0].say


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(OPENINGS), st.sampled_from(sorted(DAYS)), st.sampled_from(sorted(CLOCKS)), st.sampled_from(ALIEN)
)
async def test_what_is_left_over_of_a_booking_is_read_back(opening: str, day: str, clock: str, alien: str) -> None:
    turns = await heard(f"{opening} {day} {clock}, {alien}", PHONE)
    assert not [wish for turn in turns for wish in turn.wants]


PLACES = ("Ballard", "Queen Anne", "Green Lake", "West Seattle", "98103", "Columbia City")
BEDS = {"three bedrooms": 3, "2 beds": 2, "a four bedroom": 4, "more than two bedrooms": 3, "": None}
BATHS = {"two baths": 2.0, "1.5 bathrooms": 1.5, "at least 2 baths": 2.0, "": None}
PRICES = {
    "under 900k": (None, 900_000), "between 600 and 800 thousand": (600_000, 800_000),
    "no more than 1.2 million": (None, 1_200_000),
    "not under 700k": (700_000, None), "for half a million": (None, 500_000),
    "under 800 but not under 600": (600_000, 800_000),
    "up to $850,000": (None, 850_000), "at least 700 thousand": (700_000, None), "": (None, None),
    "max 950k": (None, 950_000),
}  # fmt: skip


def found(turns: list[Turn]) -> list[Search]:
    return [wish for turn in turns for wish in turn.wants if isinstance(wish, Search)]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.sampled_from(sorted(BEDS)),
    st.sampled_from(sorted(BATHS)),
    st.sampled_from(sorted(PRICES)),
)
async def test_a_search_is_just_what_was_said(place: str, beds: str, baths: str, price: str) -> None:
    parts = [part for part in (beds, baths, f"in {place}", price) if part]
    turns = await heard(f"I'm looking for {', '.join(parts)}", "yes")
    low, high = PRICES[price]
    expected = Search(place=place.lower(), beds=BEDS[beds], baths=BATHS[baths], min_price=low, max_price=high)
    assert found(turns) == [expected]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(sorted(BEDS)), st.sampled_from(sorted(PRICES)), st.sampled_from(ALIEN))
async def test_what_is_left_over_of_a_search_is_read_back(place: str, beds: str, price: str, alien: str) -> None:
    (turn,) = await heard(f"find me {beds} in {place} {price}, {alien}")
    assert not turn.wants
    assert turn.say.endswith("?")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["not", "anything but", "anywhere except", "outside", "but not", "instead of", "other than"]),
    st.lists(st.sampled_from(PLACES), min_size=1, max_size=3, unique=True),
    st.sampled_from(PLACES),
)
async def test_a_denied_place_is_never_searched(deny: str, denied: list[str], wanted: str) -> None:
    turns = await heard(f"three bedrooms {deny} {' or '.join(denied)}", "yes")
    assert all(search.place is None and not search.other_places for search in found(turns))
    assert [list(search.not_places) for search in found(turns)] == [[place.lower() for place in denied]]
    if wanted not in denied:
        both = found(await heard(f"three bedrooms in {wanted}, not {denied[0]}", "yes"))
        assert [search.place for search in both] == [wanted.lower()]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(DAYS)),
    st.sampled_from(sorted(DAYS)),
    st.sampled_from(["no,", "no wait,", "sorry,", "I mean"]),
)
async def test_a_correction_replaces_what_came_before(first: str, second: str, marker: str) -> None:
    turns = await heard(f"book 1042 {first} at three, {marker} {second}", PHONE, "yes", PHONE)
    slots = [wish.slot for turn in turns for wish in turn.wants if isinstance(wish, Book)]
    assert slots == [datetime.combine(DAYS[second], time(15), LOCAL)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.sampled_from(sorted(DAYS)), st.sampled_from(sorted(CLOCKS)))
async def test_at_any_moment_of_a_year_a_booking_is_later_and_in_office_hours(days: int, day: str, clock: str) -> None:
    now = NOW + timedelta(days=days, hours=days % 24)
    transcript = [Line(who="caller", text=f"book 1042 {day} {clock}, {PHONE}")]
    turn = await Rules()(transcript, now)
    for wish in turn.wants:
        assert isinstance(wish, Book)
        assert now < wish.slot < now + timedelta(days=367)
        assert wish.slot.astimezone(LOCAL).time() == CLOCKS[clock]


# Any of these words, anywhere in a sentence, may change what is meant: it is never passed over.
MEANINGFUL = word_set(
    "not no never without except but only unless before after until later earlier next either neither half quarter ten "
    "weeks week month fortnight weekend january nearly less most least every each none cancel isn't "
    "under above million percent 4 30 1077 2027 fremont"
)
SENTENCES = {
    "book 1042 on friday at three please": datetime(2026, 11, 27, 15, tzinfo=LOCAL),
    "can i see listing 1042 a week on tuesday at half past two": datetime(2026, 12, 8, 14, 30, tzinfo=LOCAL),
}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(SENTENCES)), st.sampled_from(sorted(MEANINGFUL)), st.integers(0, 13))
async def test_a_word_that_may_matter_is_used_or_read_back(sentence: str, word: str, place: int) -> None:
    words = sentence.split()
    said = " ".join([*words[:place], word, *words[place:]])
    (turn,) = await heard(f"{said}, {PHONE}")
    assert SENTENCES[sentence] not in [wish.slot for wish in turn.wants if isinstance(wish, Book)], said
