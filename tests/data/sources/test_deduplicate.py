from minillm.data.sources.deduplicate import deduplicate

FIRST = "one two three four five six seven eight nine ten"
SECOND = "alpha beta gamma delta epsilon zeta eta theta iota kappa"


def test_a_paragraph_that_stood_in_an_earlier_document_is_dropped_with_the_short_ones_after_it():
    repeated = f"{FIRST}\n\n   code\n\n{SECOND}\n\n   more code"
    assert list(deduplicate([FIRST, repeated])) == [FIRST, f"{SECOND}\n\n   more code"]


def test_a_document_that_keeps_nothing_of_its_own_is_dropped():
    assert list(deduplicate([FIRST, f"Heading\n\n{FIRST}", "too short"])) == [FIRST]


def test_line_breaks_do_not_hide_a_repetition():
    assert list(deduplicate([FIRST, FIRST.replace(" five ", "\nfive  ")])) == [FIRST]


def test_what_was_dropped_does_not_count_as_said():
    dropped, rest = f"{FIRST} eleven twelve", "five six seven eight nine ten eleven twelve"
    assert list(deduplicate([FIRST, dropped, rest])) == [FIRST, rest]


def test_a_paragraph_is_kept_where_at_most_half_of_it_was_seen():
    half = f"{FIRST} eleven twelve thirteen"  # 3 of its 6 runs of eight words are new
    assert list(deduplicate([FIRST, half])) == [FIRST, half]
    assert list(deduplicate([FIRST, f"{FIRST} eleven twelve"])) == [FIRST]
