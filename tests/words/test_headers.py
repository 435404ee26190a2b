"""Headers: what goes with a message that is published again."""

from hypothesis import given
from hypothesis import strategies as st

from tieline import headers

names = st.one_of(
    st.sampled_from(["Nats-Msg-Id", "nats-ttl", "NATS-Rollup", "Nats-Expected-Last-Sequence", "Tieline-Origin", "x"]),
    st.text(min_size=1, max_size=20),
)


@given(st.dictionaries(names, st.text(max_size=10)))
def test_only_the_servers_own_headers_are_left_behind(given_headers: dict[str, str]) -> None:
    kept = headers.carried(given_headers)
    assert kept.items() <= given_headers.items()
    assert {name for name in given_headers if name not in kept} == {
        name for name in given_headers if name.lower().startswith("nats-")
    }


def test_trace_context_and_our_own_travel_on() -> None:
    ours = {headers.ORIGIN: "o", headers.CONVERSATION: "c", headers.RUN: "2", headers.TRACEPARENT: "00-1-2-01"}
    assert headers.carried(ours | {headers.MSG_ID: "i", headers.TTL: "300"}) == ours


def test_a_count_is_a_number_or_nothing() -> None:
    told = {headers.REDRIVEN: "12", headers.TRIED: "many", headers.RUN: "9" * 400}
    assert [headers.count_in(told, name) for name in (*told, headers.STEP)] == [12, 0, 0, 0]
