"""What of a docstring is prose, and where the embedded corpus comes from."""

import ast
import collections
import textwrap

import pytest

from data_prep import prose, pydocs

GOOGLE = """Computes the thing from `x` and *y*.

    It is quick::

        thing(x, y)

    and safe. Over several
    lines it goes on, see [the guide](https://example.org/a_(b)).

    ```python
    model = thing(x, y)

    print(model)
    ```

    Example:

    >>> thing(1, 2)
    The output of a doctest.
    Another line of it.

    After the example there is prose.

    Args:
        x: A number that says how much
            there is of it.
        *args (list of int, optional): Some more numbers, which are
          added. Two sentences.
        y: One of

            * `first` takes the first of them.
            * `second` takes the second.

    Returns:
        A **result**, or `None`.
    Raises:
        ValueError: If there is no `x`.
    """

NUMPY = """
    Return the sum of it.

    Parameters
    ----------
    a, b : array_like, optional
        The input that is
        to be summed.
    out : ndarray
    axis : {None, int}
        Along which axis it goes.

    Returns
    -------
    ndarray
        The sum of the input.

    See Also
    --------
    prod : Product of it.
    mean : Its mean, which is
        over several lines.

    Notes
    -----
    The sum is exact [1]_.

    .. versionadded:: 1.2
        This goes with it.

    .. note:: A note is prose
       over two lines.

    .. math::

        a + b = c

    References
    ----------
    .. [1] A. Author, "A Book".

    Examples
    --------
    >>> np.sum([1])
    1

    ====== =====
    name   value
    ====== =====
    a      1
    """

SPHINX = """Send a :class:`~requests.Request` by :meth:`the method <Session.send>`, see :pep:`8`.

    Known as ``code`` or `a link <https://example.org>`_ or link_ or __init__ or snake_case_.

    :param url: URL of the request
        that is sent.
    :type url: str
    :param str data: (optional) What is sent.
    :returns: The response.
    :rtype: requests.Response
    :raises ValueError: if it fails.

    | name | value |
    |------|-------|
    | a    | b     |

    - The first item, which
      goes on.
    - The second.

      It has a second paragraph.

    1. Number one.
    """


class TestParagraphs:
    def test_google_style(self):
        assert prose.paragraphs(GOOGLE) == [
            "Computes the thing from x and y.",
            "and safe. Over several lines it goes on, see the guide.",
            "After the example there is prose.",
            "A number that says how much there is of it.",
            "Some more numbers, which are added. Two sentences.",
            "One of",
            "first takes the first of them.",
            "second takes the second.",
            "A result, or None.",
            "If there is no x.",
        ]

    def test_numpy_style(self):
        assert prose.paragraphs(NUMPY) == [
            "Return the sum of it.",
            "The input that is to be summed.",
            "Along which axis it goes.",
            "The sum of the input.",
            "The sum is exact.",
            "A note is prose over two lines.",
        ]

    def test_sphinx_style(self):
        assert prose.paragraphs(SPHINX) == [
            "Send a requests.Request by the method, see 8.",
            "Known as code or a link or link or __init__ or snake_case.",
            "URL of the request that is sent.",
            "(optional) What is sent.",
            "The response.",
            "if it fails.",
            "The first item, which goes on.",
            "The second.",
            "It has a second paragraph.",
            "Number one.",
        ]

    def test_code_beneath_a_paragraph_is_another_paragraph(self):
        assert prose.paragraphs("It is done so:\n    run = it()\nAnd so\n    on.") == [
            "It is done so:",
            "run = it()",
            "And so on.",
        ]

    @pytest.mark.parametrize(
        "text", ["", "\n", "   ", "```", ">>>", "====", "::", ".. note::", "a\n==", "|", "- ", "x:"]
    )
    def test_nothing_much(self, text):
        assert "".join(prose.paragraphs(text)) in ("", "a ==", "|", "-", "x:", "::")

    def test_entities_and_escapes(self):
        assert prose.plain(r"a &lt; b \* c <b>bold</b> ![logo](x.png) |sub| **x**") == "a < b * c bold x"


class TestIsProse:
    @pytest.mark.parametrize(
        "sentence",
        [
            "This is a sentence.",
            'It returns "yes" or no (if any).',
            "Is it well-formed, or isn't it?",
            "2 arrays of tf.float32 are taken.",
        ],
    )
    def test_sentences(self, sentence):
        assert pydocs.is_prose(sentence)

    @pytest.mark.parametrize(
        "sentence",
        [
            "This has no end",
            "For example, do this:",
            "Too short.",
            "and it begins in the middle.",
            "Set x = y to do this.",
            "It is at https://example.org as ever.",
            "Call f(x) on all of these.",
            "A 1 2 3 4 5 6 b.",
            "Long " * 101 + "sentence.",
            "",
        ],
    )
    def test_others(self, sentence):
        assert not pydocs.is_prose(sentence)


class TestDocstrings:
    def found(self, source):
        return [d for d in pydocs._docstrings([ast.parse(textwrap.dedent(source))]) if d]

    def test_all_that_are_documented_in_the_order_of_the_source(self):
        source = '''
            """Module."""
            def f():
                """Function."""
                def g():
                    """Inner."""
            if True:
                class C:
                    """Class."""
                    async def m(self):
                        """Method."""
            else:
                """No docstring."""
            try:
                pass
            except ImportError:
                def h():
                    """In a handler."""
            add_newdoc("numpy", "x", """Documented from outside.""")
            add_newdoc("numpy", "y", ("m", """So is its method."""))
            other("numpy", "x", """No documentation.""")
            '''
        expected = ["Module.", "Function.", "Inner.", "Class.", "Method.", "In a handler."]
        expected += ["Documented from outside.", "m", "So is its method."]
        assert self.found(source) == expected

    def test_files_that_cannot_be_parsed_are_counted(self, tmp_path):
        counts = collections.Counter()
        for name, text in (("a.py", 'print "a" """b"""'), ("b.py", '"""\0"""'), ("c.py", '"""c"""'), ("d.py", "d = 1")):
            (tmp_path / name).write_text(text)
        trees = [pydocs._parse(tmp_path / name, counts) for name in ("a.py", "b.py", "c.py", "d.py", "e.py")]
        assert [t is not None for t in trees] == [False, False, True, False, False]
        assert counts["files_unreadable"] == 3


@pytest.fixture
def small_python(monkeypatch):
    """The corpus of a few packages alone; yields the function that reads it."""
    whole = pydocs._standard_library
    few = {"python/argparse.py", "python/textwrap.py", "python/json/__init__.py"}
    monkeypatch.setattr(pydocs, "_standard_library", lambda: (f for f in whole() if f[0] in few))
    monkeypatch.setattr(pydocs, "PACKAGES", ("absl-py", "no-such-package"))

    def read():
        counts = collections.Counter()
        return list(pydocs.documents(counts)), counts

    return read


class TestDocuments:
    @pytest.mark.slow
    def test_a_small_corpus(self, small_python, capsys):
        found, counts = small_python()
        kept = [(where, s) for where, s in found if s]
        everything = [s.decode() for _, found in kept for s in found]
        assert 200 < len(kept) < len(found)
        assert len(everything) == len(set(everything)), "a sentence comes twice"
        assert all(map(pydocs.is_prose, everything))
        assert all(len(s) >= pydocs.MIN_SENTENCES for _, s in kept)
        assert counts["packages_missing"] == 1 and "no-such-package is not installed" in capsys.readouterr().err
        assert {where.split("/")[0] for where, _ in kept} == {"python", "absl-py"}
        assert {"python/textwrap.py", "python/pydoc_data/topics.py:truth"} <= {where for where, _ in kept}
        assert small_python() == (found, counts), "two readings differ"

    def test_a_package_is_read_and_never_imported(self, tmp_path, monkeypatch):
        text = "This module must never be imported.\n\n    It holds one\\ud800half and a rule, which says "
        text += "that it may be read but not run."
        files = {
            "hostile.py": f'"""{text}"""\nraise SystemExit',
            "hostile_vendored/tests/test_it.py": f'"""{text} Not this."""',
            "hostile-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        }
        files["hostile-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(pydocs, "PACKAGES", ("hostile",))
        monkeypatch.setattr(pydocs, "_standard_library", lambda: ())
        monkeypatch.setattr(pydocs, "_topics", lambda counts: ())
        expected = [b"This module must never be imported."]
        expected += [b"It holds one?half and a rule, which says that it may be read but not run."]
        assert list(pydocs.documents(collections.Counter())) == [("hostile/hostile.py", expected)]

    def test_requirements_are_there(self):
        missing = [p for p in pydocs.PACKAGES if not pydocs._files(p)]
        assert missing == []

    @pytest.mark.slow
    def test_the_whole_corpus(self):
        counts = collections.Counter()
        found = [s for _, s in pydocs.documents(counts)]
        kept = [s for s in found if s]
        assert len(found) > 30_000 and len(kept) > 10_000
        assert sum(len(x) for s in kept for x in s) > 4e6
        assert counts["packages_missing"] == 0 and counts["files_unreadable"] < 20
