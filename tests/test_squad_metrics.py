"""Tests of tfbert.tasks.squad_metrics: published examples, cases by hand, and thresholds by trying them all."""

import random

import pytest

from tfbert.tasks import squad_metrics


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The  Panthers'", "panthers"),
        ("a an the", ""),
        ("theater of a cat", "theater of cat"),
        ("U.S.", "us"),
        ("1,000—2,000", "1000—2000"),  # a dash is no ASCII punctuation
        ("well-known", "wellknown"),
        ("\tDenver\u00a0Broncos\n", "denver broncos"),
        ("诺曼底。", "诺曼底。"),
        # In this order: case, punctuation, articles, white space.
        ("THE Cat", "cat"),
        ("a.n. apple", "apple"),  # which is an article once its points are gone
        ("a-the", "athe"),  # and this is one no more
        ("(the)", ""),
        ("the_cat", "thecat"),  # the underscore is ASCII punctuation
        ("a—b", "—b"),  # beside a dash it is a word of its own
        ("l’a", "l’"),
        ("the\nthe\u3000cat", "cat"),
        ("Beyoncé", "beyoncé"),  # accents stay
        ("ǅ İx", "ǆ i̇x"),
    ],
)
def test_normalize(text, expected):
    assert squad_metrics.normalize(text) == expected


@pytest.mark.parametrize(
    "predicted, gold, exact, f1",
    [
        ("Denver Broncos", "the Denver Broncos!", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),
        ("Broncos of Denver", "Denver Broncos", 0, 0.8),
        ("Denver Denver", "Denver Broncos", 0, 0.5),  # a bag, so one of the two counts
        ("Carolina", "Denver Broncos", 0, 0),
    ],
)
def test_exact_match_and_f1(predicted, gold, exact, f1):
    assert squad_metrics.exact_match(predicted, gold) == exact
    for empty_counts in (True, False):
        assert squad_metrics.f1(predicted, gold, empty_counts) == pytest.approx(f1)


def test_answers_without_words():
    assert squad_metrics.exact_match("the", "an") == 1
    assert squad_metrics.f1("the", "an", empty_counts=True) == 1
    assert squad_metrics.f1("the", "an", empty_counts=False) == 0
    assert squad_metrics.f1("", "Denver", empty_counts=True) == 0


def test_published_examples():
    """Those of the metric cards of Hugging Face's evaluate for the official scripts of 1.1 and 2.0."""
    golds = [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]]
    two_thirds = pytest.approx(66.66666666666667)
    assert squad_metrics.score(["1976"], golds[:1]) == {"exact_match": 100.0, "f1": 100.0}
    assert squad_metrics.score(["1999"], golds[:1]) == {"exact_match": 0.0, "f1": 0.0}
    predicted = ["1976", "Beyonce", "climate change"]
    assert squad_metrics.score(predicted, golds) == {"exact_match": two_thirds, "f1": two_thirds}
    found = squad_metrics.score(predicted, golds, [0.0] * 3)
    names = ("exact", "f1", "HasAns_exact", "HasAns_f1", "best_exact", "best_f1")
    totals = {"total": 3, "HasAns_total": 3, "best_exact_thresh": 0.0, "best_f1_thresh": 0.0}
    assert found == {**dict.fromkeys(names, two_thirds), **totals}
    found = squad_metrics.score(["1999"], golds[:1], [0.0])
    assert found == {**dict.fromkeys(names, 0.0), **totals, "total": 1, "HasAns_total": 1}


def test_answers_of_people_without_words_do_not_count_in_squad_2():
    """An answer such as "the" is none; if there is no other, the right answer is nothing."""
    odds = [-1.0, -1.0, -1.0]
    found = squad_metrics.score(["the", "", "cat"], [["The", "cat"], ["a", "..."], ["...", "Cat!"]], odds)
    assert (found["exact"], found["f1"], found["HasAns_total"]) == (pytest.approx(200 / 3), pytest.approx(200 / 3), 3)
    assert "NoAns_exact" not in found


def test_the_best_answer_of_each_score_counts():
    """The nearest by words need not be the one that is the same."""
    assert squad_metrics.score(["cat dog"], [["cat", "dog cat", "bird"]]) == {"exact_match": 0.0, "f1": 100.0}
    assert squad_metrics.score(["the"], [["an", "cat"]]) == {"exact_match": 100.0, "f1": 0.0}


def test_the_best_answer_counts():
    found = squad_metrics.score(["Broncos", "1066"], [["Denver", "the Broncos", "Denver Broncos"], ["1067"]])
    assert found == {"exact_match": 50.0, "f1": 50.0}


def test_squad_2():
    predicted = ["Broncos", "", "Paris", "", "Rome"]
    golds = [["Denver Broncos"], [], [], ["1066"], ["rome", "Roma"]]
    found = squad_metrics.score(predicted, golds, [-3.0, 2.0, -1.0, 1.0, -2.0])
    assert {name: round(value, 4) for name, value in found.items()} == {
        "exact": 40.0,
        "f1": 53.3333,
        "total": 5,
        "HasAns_exact": 33.3333,
        "HasAns_f1": 55.5556,
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        # Nothing but the answers with odds up to -2: two right ones of those without, and 1 of 3 (2/3 and 1 by F1).
        "best_exact": 60.0,
        "best_exact_thresh": -2.0,
        "best_f1": 73.3333,
        "best_f1_thresh": -2.0,
    }


def test_thresholds_by_hand():
    """Of the answers in the order of their odds, one more counts at each; the first of the best sums is taken."""
    odds, has, predicted = [3.0, -1.0, 2.0, -2.0], [True, False, True, True], ["x", "x", "x", "x"]
    # Nothing: 1 of 4. Up to -2: 2. Up to -1: 1, since an answer where there is none takes its point away. 2: 2. 3: 2.5.
    assert squad_metrics.best_threshold(odds, [0.5, 0.0, 1.0, 1.0], has, predicted) == (62.5, 3.0)
    assert squad_metrics.best_threshold(odds, [0.0, 0.0, 1.0, 1.0], has, predicted) == (50.0, -2.0)
    assert squad_metrics.best_threshold(odds, [0.0, 0.0, 0.0, 0.0], has, predicted) == (25.0, 0.0)
    assert squad_metrics.best_threshold(odds, [0.5, 1.0, 1.0, 1.0], has, ["x", "", "x", "x"]) == (87.5, 3.0)


def test_best_threshold_is_the_best_of_all():
    rng = random.Random(3)
    for _ in range(200):
        count = rng.randint(1, 9)
        odds = rng.sample(range(-20, 20), count)
        has = [rng.random() < 0.6 for _ in odds]
        predicted = [rng.choice(["", "x"]) for _ in odds]
        scores = [rng.choice([0, 0.5, 1]) if h else float(not p) for h, p in zip(has, predicted)]

        def total(threshold, scores=scores, odds=odds, has=has):
            return sum(s if o <= threshold else not h for s, o, h in zip(scores, odds, has))

        best, threshold = squad_metrics.best_threshold(odds, scores, has, predicted)
        every = [total(t) for t in (-100, *odds)]
        assert best == pytest.approx(100 * max(every) / count)
        nothing = total(-100)
        assert threshold == 0 if max(every) == nothing else total(threshold) == pytest.approx(max(every))
