"""Lines into words: shlex is the dumb twin."""

import random
import shlex

import pytest

from pyetcd.cli.words import BadLine, last_word_at, quoted, split

ROWS = (
    ("put a b", ["put", "a", "b"]),
    ("  put\ta  b \r\n", ["put", "a", "b"]),
    ("put 'a b' \"c d\"", ["put", "a b", "c d"]),
    ("put a\\ b c'd'\"e\"", ["put", "a b", "cde"]),
    ("put '' \"\"", ["put", "", ""]),
    ("put '{\"a\": 1}'", ["put", '{"a": 1}']),
    ('put "a\\"b\\\\c\\d"', ["put", 'a"b\\c\\d']),
    ("# all", []),
    ("get a # rest 'of it", ["get", "a"]),
    ("get a#b '#c' \\#d", ["get", "a#b", "#c", "#d"]),
    ("", []),
    ("get \udcff\xa0\u2028", ["get", "\udcff\xa0\u2028"]),
)


@pytest.mark.parametrize(("line", "words"), ROWS)
def test_rows(line, words):
    assert split(line) == words


@pytest.mark.parametrize("line", ("put 'a", 'put "a', 'put "a\\"', "put a\\", "get it's"))
def test_no_words(line):
    with pytest.raises(BadLine):
        split(line)


def test_as_shlex():
    chance = random.Random(5)
    for _ in range(20_000):
        line = "".join(chance.choices("ab \t\n'\"\\", k=chance.randrange(12)))
        try:
            expected = shlex.split(line)
        except ValueError:
            with pytest.raises(BadLine):
                split(line)
        else:
            assert split(line) == expected, line


@pytest.mark.parametrize(
    ("line", "at"),
    (("", 0), ("get", 0), ("get ", 4), ("get ab", 4), ("get a\\ b", 4), ("get 'a b", 4)),
)
def test_last_word(line, at):
    assert last_word_at(line) == at


@pytest.mark.parametrize("word", ("a", "a b", "it's", '"', "a\\b", "#a", "a#b"))
def test_quoted_words_are_read_back(word):
    assert split(quoted(word)) == [word]
