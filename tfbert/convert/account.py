"""What came from where: every tensor of a file and every variable of a model, once."""

import dataclasses
import fnmatch
import re

from tfbert import checks


@dataclasses.dataclass
class Account:
    """Where the variables of a model came from, and what became of the tensors of a file.

    Attributes:
        title: What was read.
        used: (our name, name in the file, how it is stored there) of what was taken over.
        written: {our name: name in the output}, of a conversion.
        derived: (name, why) of what follows from other tensors: copies in the file, zeros in the model.
        unused: (name in the file, why) of what is known and belongs to no model.
        left_over: Names in the file that have no place in the model.
        ours: {name in the file: our name} of what is left over and has one.
        missing: Our names that nothing in the file is for.
    """

    title: str
    used: list = dataclasses.field(default_factory=list)
    written: dict = dataclasses.field(default_factory=dict)
    derived: list = dataclasses.field(default_factory=list)
    unused: list = dataclasses.field(default_factory=list)
    left_over: list = dataclasses.field(default_factory=list)
    ours: dict = dataclasses.field(default_factory=dict)
    missing: list = dataclasses.field(default_factory=list)

    def check(self, allow_missing, where):
        """Raises an `InputError` that lists what is left over or missing and matches none of the globs.

        A glob may be of the file's names or of ours, so that `cls/*` means the same heads in every format.
        """
        kinds = (("has no place in the model", self.left_over), ("is not in the file", self.missing))
        problems = []
        for what, all_names in kinds:
            found = [n for n in all_names if not self._allowed(n, allow_missing)]
            problems += [f"{line} {what}" for line in _lines([(n,) for n in found])]
        checks.require(
            not problems,
            "every tensor of the file must have its place in the model, and every variable its tensor",
            "\n  ".join(["", *problems]) + "\n ",
            where,
            "To go on without them, give their names or globs with --allow_missing, as in --allow_missing='cls/*'",
        )

    def _allowed(self, name, globs):
        both = (name, self.ours.get(name, name))
        return any(fnmatch.fnmatchcase(n, glob) for n in both for glob in globs)

    def text(self):
        """The account as lines; layers of like names are told in one line."""
        sections = (
            ("used", [self._way(*entry) for entry in self.used], ""),
            ("derived", self.derived, ": "),
            ("left alone", self.unused, ": "),
            ("left over, as --allow_missing says", [(name,) for name in self.left_over], ""),
            ("missing, as --allow_missing says: freshly initialised", [(name,) for name in self.missing], ""),
        )
        lines = [self.title]
        for title, entries, between in sections:
            if entries:
                lines += [f"  {title}, {len(entries)}:", *(f"    {line}" for line in _lines(entries, between))]
        return "\n".join(lines)

    def _way(self, ours, theirs, how):
        """(our name, from where, to where) of a tensor; names that are ours too are not said again."""
        written = self.written.get(ours, ours)
        read = f" <- {theirs}{how and f' ({how})'}" if theirs != ours else ""
        return ours, read, f" -> {written}" if written != ours else ""


def _lines(entries, between=""):
    """Entries as lines; those that differ in one number only, the layer's, make one line."""
    groups = {}
    for entry in entries:
        number = re.search(r"(?<=layer[._])\d+|(?<=layers/)\d+", entry[0])
        layer = int(number[0]) if number else None
        pattern = tuple(_without(text, layer) for text in entry)
        groups.setdefault(pattern, []).append((layer, entry))
    lines = []
    for pattern, members in groups.items():
        layers = [layer for layer, _ in members]
        if len(members) == 1:
            lines.append(between.join(members[0][1]))
        elif layers == list(range(layers[0], layers[0] + len(layers))):
            lines.append(between.join(pattern).replace("{}", f"{{{layers[0]}..{layers[-1]}}}"))
        else:
            lines += [between.join(entry) for _, entry in members]
    return lines


def _without(text, layer):
    """A name with its layer's number as `{}`; KerasHub's has none for the first layer, and `_2` for the third."""
    if layer is None:
        return text
    text = re.sub(r"(?<=transformer_encoder)(_\d+)?/", "{}/", text)
    text = re.sub(rf"(?<=layer_with_weights-){layer + 4}\b", "{}", text)
    return re.sub(rf"(?<=[./_]){layer}(?=[./])", "{}", text, count=1)
