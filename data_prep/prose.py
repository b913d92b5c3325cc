"""A docstring (Google, NumPy, Sphinx or Markdown style) to the paragraphs of prose that it holds.

Goes: code blocks, doctests, tables, headings, signatures and the markup of field lists. Stays: the
sentences, those of field lists included. Nothing here decides where a sentence ends: see `sentences`.
"""

import html
import inspect
import re

_FENCE = re.compile(r"\s*(```|~~~)")
_RULE = re.compile(r"([=\-~^*#+`\"_])\1{2,}$")
_HEADING = re.compile(r"#{1,6} ")
_DIRECTIVE = re.compile(r"\.\. +(?:([\w:-]+)::|\S)\s*(.*)")
_ADMONITIONS = {"note", "warning", "tip", "important", "caution", "attention", "hint", "admonition"}
_FIELD = re.compile(r":(\w+)(?: [^:]*)?:(?:\s+|$)")
_FIELDS_OF_PROSE = {"param", "return", "returns", "raise", "raises", "ivar", "cvar", "var", "note", "arg", "keyword"}
_BULLET = re.compile(r"(?:[-*+•]|\(?\d{1,2}[.)]|\([a-z]\))\s+")
_SECTION = re.compile(r"\**([A-Z][A-Za-z]+(?: [A-Za-z]+){0,2})\**\s*:(:?)")
_SECTIONS_WITHOUT_PROSE = {"references", "reference", "see also", "methods", "bibliography", "citation", "index"}
_SECTIONS_OF_FIELDS = {"parameters", "other parameters", "returns", "yields", "raises", "attributes", "warns"}
_NUMPY_FIELD = re.compile(r"[\w*, .\"'-]+ ?: ?.*|[\w*, .\[\]]+$")
_TABLE = re.compile(r"\|.*\||\+[-=]{2,}|(?:[=-]{2,} +)+[=-]{2,}|\S {3,}\S")
_LABEL = re.compile(r"[`*]*[\w.*\[\]]+[`*]*(?: ?\([^)]{0,80}\))?(?::| -{1,2}) +(?=\S)")

# What a paragraph must hold for the pattern to be worth a try, the pattern, and what takes its place.
_INLINE = tuple(
    (needle, re.compile(pattern), to)
    for needle, pattern, to in (
        ("](", r"!\[[^\]]*\]\([^)]*\)", ""),  # images
        ("](", r"\[([^\]]+)\]\((?:[^()]|\([^()]*\))*\)", r"\1"),  # [text](link)
        ("|", r"\|\w[^|]{0,30}\|_?", ""),  # substitutions
        ("`_", r"`([^`<]+?)\s*<[^`>]+>`_{1,2}", r"\1"),  # `text <link>`_
        (":`", r"(?::\w+)?:[\w+-]+:`([^`<]+?)\s*<[^`>]+>`", r"\1"),  # :role:`text <target>`
        (":`", r"(?::\w+)?:[\w+-]+:`[~!]?([^`]+)`", r"\1"),  # :role:`text`
        (">", r"<!--.*?-->|</?[a-zA-Z][^<>]{0,80}>", " "),  # HTML
        ("[", r"\s*\[(?:\d+|\w+\d{2,4}\w?)\]_?(?!\w)", ""),  # citations
        ("`", r"``?([^`]+)``?_{0,2}", r"\1"),
        ("**", r"\*\*([^*\s](?:[^*]*[^*\s])?)\*\*", r"\1"),
        ("*", r"(?<![\w*])\*([^*\s](?:[^*]*[^*\s])?)\*(?![\w*])", r"\1"),
        ("_", r"(?<!\w)_([A-Za-z][^_]*[A-Za-z])_(?!\w)", r"\1"),
        ("_", r"(?<!\w)([A-Za-z\d](?:\w*[A-Za-z\d])?)_(?=[\s.,;:)])", r"\1"),  # link_
        ("::", r"(?<=\w)::(?=\s|$)", ":"),
        ("\\", r"\\([*_`|<>])", r"\1"),
    )
)


def plain(text):
    """Text of one paragraph without inline markup, white space squeezed."""
    for needle, pattern, to in _INLINE:
        if needle in text:
            text = pattern.sub(to, text)
    return " ".join(html.unescape(text).split())


class _Reader:
    """Reads the lines of one docstring, from the first to the last, and collects paragraphs."""

    def __init__(self):
        self.done = []
        self.lines, self.indent, self.is_item = [], 0, False  # of the paragraph that is open
        self.section, self.section_indent = "", 0
        self.fenced = self.doctest = False
        self.block = None  # lines that are indented more than this belong to a block without prose

    def read(self, text, indent, next_text):
        """Takes one line; returns whether the next one was its underline."""
        if self._inside_code(text, indent):
            return False
        if next_text and text and _RULE.fullmatch(next_text) and not _RULE.fullmatch(text):
            self.end()
            self.section, self.section_indent = text.lower(), indent
            return True
        if not self._is_structure(text, indent):
            self._take(text, indent)
        return False

    def end(self):
        """Ends the open paragraph."""
        if self.lines:
            self.done.append(" ".join(self.lines))
        self.lines, self.is_item = [], False

    def _inside_code(self, text, indent):
        """Whether a line is blank, or of a code block, doctest or directive."""
        if _FENCE.match(text):
            self.end()
            self.fenced = not self.fenced and not text[3:].endswith("```")
            return True
        if self.fenced:
            return True
        if not text:
            self.end()
            self.doctest = False
            return True
        if self.block is not None and indent > self.block:
            return True
        self.block = None
        self.doctest = self.doctest or text.startswith((">>>", "$ ", "% "))
        if self.doctest:
            self.end()
        return self.doctest

    def _is_structure(self, text, indent):
        """Whether a line is a heading, rule, directive, table row, or of a section without prose."""
        if _RULE.fullmatch(text) or _HEADING.match(text) or _TABLE.search(text):
            self.end()
            return True
        directive = _DIRECTIVE.match(text)
        if directive:
            self.end()
            if directive[1] not in _ADMONITIONS:
                self.block = indent
            elif directive[2]:
                self._add(directive[2], indent + 3)
            return True
        if self.section in _SECTIONS_WITHOUT_PROSE and indent >= self.section_indent:
            return True
        header = _SECTION.fullmatch(text)
        if header and (not self.lines or indent < self.indent):
            self.end()
            if header[1].lower() in _SECTIONS_WITHOUT_PROSE or header[2]:
                self.block = indent
            return True
        return False

    def _take(self, text, indent):
        """Takes a line of prose, perhaps the first of a field or list item."""
        first = not self.lines or indent <= self.indent
        in_fields = self.section in _SECTIONS_OF_FIELDS and indent == self.section_indent
        if in_fields and _NUMPY_FIELD.fullmatch(text):
            self.end()
            return
        field = _FIELD.match(text)
        if field:
            self.end()
            if field[1] not in _FIELDS_OF_PROSE:
                self.block = indent
                return
        item = field or _BULLET.match(text)
        text = text[item.end() :] if item else text
        label = _LABEL.match(text) if item or first else None
        text = text[label.end() :] if label else text
        if item or label:
            self.end()
        if text:
            self._add(text, indent, is_item=bool(item or label))
        if text.endswith("::"):
            self.end()
            self.block = indent

    def _add(self, text, indent, is_item=False):
        if self.lines:
            # Deeper in the middle of a sentence is but a hanging indent.
            deeper = indent > self.indent and not self.is_item and self.lines[-1].endswith((".", ":", "!", "?"))
            if deeper or indent < self.indent:
                self.end()
        if not self.lines or self.is_item:
            self.indent, self.is_item = indent, is_item
        self.lines.append(text)


def paragraphs(docstring):
    """The paragraphs of prose of a docstring.

    Args:
        docstring: As in the source, indentation included.

    Returns:
        A list of strings: one paragraph, list item or field description each, plain text.
    """
    lines = inspect.cleandoc(docstring.expandtabs()).split("\n")
    reader = _Reader()
    underlined = False
    for line, following in zip(lines, [*lines[1:], ""]):
        text = line.strip()
        underlined = not underlined and reader.read(text, len(line) - len(line.lstrip()), following.strip())
    reader.end()
    return [p for p in map(plain, reader.done) if p]
