from hypothesis import given
from hypothesis import strategies as st

from ragsearch.data.ids import IdLedger


@given(st.lists(st.sampled_from("abcdefg")))
def test_each_repeated_id_points_to_its_first_row(ids: list[str]):
    ledger = IdLedger()
    for mark, row_id in enumerate(ids):
        ledger.add(row_id, mark)

    expected = [(i, ids.index(row_id)) for i, row_id in enumerate(ids) if ids.index(row_id) < i]
    assert list(ledger.repeated()) == expected
