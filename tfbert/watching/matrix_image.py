"""A confusion matrix as an image for TensorBoard, drawn by Pillow, which TensorBoard itself brings along."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfbert.watching import views

MOST_CLASSES = 100  # more are not drawn: their cells would be too small to see
MOST_NUMBERED = 25  # with more, cells have no room for numbers
_CELLS = ((6, 64), (12, 48), (25, 34), (50, 20), (MOST_CLASSES, 14))  # (classes at most, dots of a cell)
_LETTERS = 24  # of a label
_GAP = 8
_BLACK, _GREY, _LINE = (20, 20, 20), (102, 102, 102), (221, 221, 221)
_CAPTION = "rows: truth, columns: predicted; colour: share of the row"


def _label(label, number):
    """A label as the font can write it; one in another script than Latin becomes its number among the labels."""
    text = label if len(label) <= _LETTERS else label[: _LETTERS - 2] + ".."
    return text if text.isprintable() and all(ord(letter) < 0x180 for letter in text) else f"#{number}"


def _sideways(text, font, colour):
    """An image of a text that is read from below."""
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (right - min(left, 0) + 1, bottom - min(top, 0) + 1), "white")
    ImageDraw.Draw(image).text((0, 0), text, colour, font)
    return image.rotate(90, expand=True)


def draw(confusion):
    """The image of a `views.Confusion`, uint8 [height, width, 3]; None if it has more than `MOST_CLASSES`."""
    classes = len(confusion.labels)
    if classes > MOST_CLASSES:
        return None
    cell = next(dots for most, dots in _CELLS if classes <= most)
    font = ImageFont.load_default(max(10, min(15, cell - 3)))
    labels = [_label(*pair) for pair in zip(confusion.labels, range(classes))]
    room = int(max(font.getlength(label) for label in labels)) + 2 * _GAP
    side, caption = cell * classes, ImageFont.load_default(13)
    width = max(room + side + _GAP, int(caption.getlength(_CAPTION)) + 2 * _GAP)
    image = Image.new("RGB", (width, room + side + 4 * _GAP), "white")
    pen = ImageDraw.Draw(image)
    colours = views.cell_colours(confusion.counts)
    image.paste(Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST), (room, room))
    for i, label in enumerate(labels):
        middle = room + cell * i + cell // 2
        pen.text((room - _GAP, middle), label, _BLACK, font, anchor="rm")
        text = _sideways(label, font, _BLACK)
        image.paste(text, (middle - text.width // 2, room - _GAP - text.height))
    for i in range(classes + 1):
        at = room + cell * i
        pen.line([(room, at), (room + side, at)], _LINE)
        pen.line([(at, room), (at, room + side)], _LINE)
    if classes <= MOST_NUMBERED:
        for row, column in np.argwhere(confusion.counts):
            # Dark letters on pale cells, white ones on dark cells.
            ink = _BLACK if colours[row, column].mean() > 140 else (255, 255, 255)
            place = (room + cell * column + cell // 2, room + cell * row + cell // 2)
            pen.text(place, views.brief(int(confusion.counts[row, column])), ink, font, anchor="mm")
    pen.text((_GAP, room + side + _GAP), _CAPTION, _GREY, caption)
    return np.asarray(image)
