from hypothesis import given
from hypothesis import strategies as st

from ragsearch.data.chunks import chunk_words, n_chunks


def test_a_text_is_cut_at_words_and_passages_share_the_overlap():
    assert list(chunk_words("a b\n c d  e", 2)) == ["a b", "c d", "e"]
    assert list(chunk_words("a b c d e", 3, 1)) == ["a b c", "c d e"]
    assert list(chunk_words("a b", 5, 4)) == ["a b"]
    assert list(chunk_words(" \n", 5)) == []


@given(st.integers(0, 60), st.integers(1, 9), st.data())
def test_no_word_is_lost_and_no_passage_is_a_tail_of_another(
    n_words: int, words: int, data: st.DataObject
):
    overlap = data.draw(st.integers(0, words - 1))
    chunks = [
        c.split() for c in chunk_words(" ".join(map(str, range(n_words))), words, overlap)
    ]

    first, rest = chunks[:1], chunks[1:]
    assert [w for c in first for w in c] + [w for c in rest for w in c[overlap:]] == [
        str(n) for n in range(n_words)
    ]
    assert all(len(c) > overlap for c in rest)
    assert len(chunks) == n_chunks(n_words, words, overlap)
