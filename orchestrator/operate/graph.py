"""A saga's definition as a picture: mermaid, dot, or svg laid out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from html import escape as xml

from msgspec import Struct

from ..definition import Definition, StepDefinition, StepKind
from .output import escape


class Form(StrEnum):
    """What the picture is written in."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


class Role(StrEnum):
    """What a box stands for."""

    BEGIN = "begin"
    STEP = "step"
    PIVOT = "pivot"
    UNDO = "undo"
    END = "end"


class Box(Struct, frozen=True):
    """A box: its name in the picture, what it stands for, its lines of text, which are printable."""

    name: str
    role: Role
    lines: tuple[str, ...]


class Arrow(Struct, frozen=True):
    """From one box to another; dashed: to the undo of a step."""

    source: str
    target: str
    is_undo: bool = False


class Picture(Struct, frozen=True):
    """The graph of a saga: the boxes in the order written, the arrows between them."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def draw(definition: Definition, form: Form) -> str:
    """The saga's steps, what each sends, the order, the pivot, and what undoes what."""
    return _WRITERS[form](picture(definition))


def picture(definition: Definition) -> Picture:
    """The graph, before it is written in any form."""
    boxes = [_box("begun", Role.BEGIN, *sorted(definition.starters))]
    arrows: list[Arrow] = []
    for step in definition.steps.values():
        boxes.append(_box(_id(step.name), Role.PIVOT if step.pivot else Role.STEP, *_step_lines(step)))
        arrows += [Arrow(source, _id(step.name)) for source in [_id(name) for name in step.after] or ["begun"]]
        if step.compensate is not None:
            function = step.compensate.function
            boxes.append(_box(f"undo_{step.name}", Role.UNDO, f"undo: {function.__name__}", _returned(function)))
            arrows.append(Arrow(_id(step.name), f"undo_{step.name}", is_undo=True))
    boxes.append(_box("ended", Role.END, "completed"))
    followed = {name for step in definition.steps.values() for name in step.after}
    last = [_id(step.name) for step in definition.steps.values() if step.name not in followed]
    arrows += [Arrow(source, "ended") for source in last or ["begun"]]
    return Picture(escape(definition.name), tuple(boxes), tuple(arrows))


def _box(name: str, role: Role, *lines: str) -> Box:
    return Box(name, role, tuple(escape(line) for line in lines))


def _id(step: str) -> str:
    return f"step_{step}"


def _step_lines(step: StepDefinition) -> Iterator[str]:
    yield f"{step.name} (pivot)" if step.pivot else step.name
    sends = " or ".join(sent.__name__ for sent in step.sends)
    if step.kind is StepKind.WAIT:
        events = " or ".join(sorted({event.__name__ for handler in step.on for event in handler.types}))
        yield f"waits for {events}" if events else "waits for a time"
    elif step.kind is StepKind.CHILD:
        yield f"children {sends}" if step.many else f"child {sends}"
    elif step.kind is StepKind.PUBLISH:
        yield f"publishes {sends}"
    else:
        yield f"each {sends}" if step.many else sends
    if step.may_stand:
        yield "may stand"


def _returned(function: Callable[..., object]) -> str:
    annotation = function.__annotations__.get("return", "")
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


# Mermaid.

_MERMAID_SHAPES = {
    Role.BEGIN: '(["{}"])',
    Role.STEP: '["{}"]',
    Role.PIVOT: '[["{}"]]',
    Role.UNDO: '("{}")',
    Role.END: '(["{}"])',
}


def _mermaid(it: Picture) -> str:
    lines = ["flowchart TD"]
    for box in it.boxes:
        text = "<br/>".join(_mermaid_text(line) for line in box.lines)
        lines.append(f"    {box.name}{_MERMAID_SHAPES[box.role].format(text)}")
    for arrow in it.arrows:
        lines.append(f"    {arrow.source} {'-.->' if arrow.is_undo else '-->'} {arrow.target}")
    for box in it.boxes:
        if box.role is Role.PIVOT:
            lines.append(f"    style {box.name} stroke-width:3px")
        elif box.role is Role.UNDO:
            lines.append(f"    style {box.name} stroke-dasharray:4")
    return "\n".join(lines)


def _mermaid_text(text: str) -> str:
    for character, code in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(character, code)
    return text


# Graphviz.

_DOT_STYLES = {
    Role.BEGIN: "shape=oval",
    Role.STEP: "shape=box",
    Role.PIVOT: "shape=box, penwidth=3",
    Role.UNDO: 'shape=box, style="rounded,dashed"',
    Role.END: "shape=oval",
}


def _dot(it: Picture) -> str:
    lines = [f"digraph {_dot_text([it.title])} {{", '    node [fontname="sans-serif"];']
    lines += [f"    {box.name} [label={_dot_text(box.lines)}, {_DOT_STYLES[box.role]}];" for box in it.boxes]
    for arrow in it.arrows:
        style = " [style=dashed, constraint=false]" if arrow.is_undo else ""
        lines.append(f"    {arrow.source} -> {arrow.target}{style};")
    undone = [arrow for arrow in it.arrows if arrow.is_undo]
    lines += [f"    {{ rank=same; {arrow.source}; {arrow.target}; }}" for arrow in undone]
    return "\n".join([*lines, "}"])


def _dot_text(lines: tuple[str, ...] | list[str]) -> str:
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'


# SVG: rows from top to bottom, each step with its undo to the right.

_LINE = 18
_CHARACTER = 7.4
_PADDING = 14
_ROW_GAP = 44
_GAP = 36


class _Place(Struct, frozen=True):
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def _svg(it: Picture) -> str:
    places, width, height = _laid_out(it)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="sans-serif" font-size="13">',
        f"<title>{xml(it.title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    out += [_svg_arrow(arrow, places) for arrow in it.arrows]
    out += [_svg_box(box, places[box.name]) for box in it.boxes]
    return "\n".join([*out, "</svg>"])


def _laid_out(it: Picture) -> tuple[dict[str, _Place], float, float]:
    """Where each box stands, and the size of the whole."""
    boxes = {box.name: box for box in it.boxes}
    undo_of = {arrow.source: arrow.target for arrow in it.arrows if arrow.is_undo}
    rows = [[boxes[name] for step in row for name in (step, undo_of.get(step)) if name] for row in _rows(it)]
    spine = max(_left_of_spine(row) for row in rows) + _PADDING
    places: dict[str, _Place] = {}
    y = float(_PADDING)
    for row in rows:
        x, tall = spine - _left_of_spine(row), max(_height(box) for box in row)
        for box in row:
            places[box.name] = _Place(x, y + (tall - _height(box)) / 2, _width(box), _height(box))
            x += _width(box) + _GAP
        y += tall + _ROW_GAP
    right = max(place.x + place.width for place in places.values())
    return places, right + _PADDING, y - _ROW_GAP + _PADDING


def _left_of_spine(row: list[Box]) -> float:
    """How much of a row is left of the middle line: a step alone stands on it, its undo beside it."""
    steps = [box for box in row if box.role is not Role.UNDO]
    shown = row if len(steps) > 1 else steps
    return (sum(_width(box) + _GAP for box in shown) - _GAP) / 2


def _rows(it: Picture) -> list[list[str]]:
    """The boxes but for the undos, each in the row after the last of those that lead to it."""
    row: dict[str, int] = {}
    for box in it.boxes:  # in the order written a step comes after those it follows
        if box.role is not Role.UNDO:
            before = [row[arrow.source] for arrow in it.arrows if arrow.target == box.name and arrow.source in row]
            row[box.name] = max(before, default=-1) + 1
    return [[name for name, at in row.items() if at == number] for number in range(max(row.values()) + 1)]


def _width(box: Box) -> float:
    return max(len(line) for line in box.lines or ("",)) * _CHARACTER + 2 * _PADDING


def _height(box: Box) -> float:
    return max(1, len(box.lines)) * _LINE + _PADDING


_SVG_STYLES = {
    Role.BEGIN: 'rx="16" fill="#f3f3f3" stroke="#555"',
    Role.STEP: 'rx="3" fill="#eaf2fb" stroke="#345"',
    Role.PIVOT: 'rx="3" fill="#fdf1d8" stroke="#345" stroke-width="3"',
    Role.UNDO: 'rx="10" fill="white" stroke="#864" stroke-dasharray="4 3"',
    Role.END: 'rx="16" fill="#f3f3f3" stroke="#555"',
}


def _svg_box(box: Box, at: _Place) -> str:
    first = at.y + _PADDING / 2 + _LINE * 0.72
    text = "".join(
        f'<text x="{at.middle:.1f}" y="{first + i * _LINE:.1f}" text-anchor="middle">{xml(line)}</text>'
        for i, line in enumerate(box.lines)
    )
    frame = f'<rect x="{at.x:.1f}" y="{at.y:.1f}" width="{at.width:.1f}" height="{at.height:.1f}" '
    return f"{frame}{_SVG_STYLES[box.role]}/>{text}"


def _svg_arrow(arrow: Arrow, places: dict[str, _Place]) -> str:
    a, b = places[arrow.source], places[arrow.target]
    if arrow.is_undo:
        y = a.y + a.height / 2
        road, dash = f"M{a.x + a.width:.1f} {y:.1f} H{b.x:.1f}", ' stroke-dasharray="4 3"'
    else:
        start, stop = a.y + a.height, b.y
        bend = (start + stop) / 2
        road = f"M{a.middle:.1f} {start:.1f} C{a.middle:.1f} {bend:.1f} {b.middle:.1f} {bend:.1f} "
        road += f"{b.middle:.1f} {stop:.1f}"
        dash = ""
    return f'<path d="{road}" fill="none" stroke="#555" marker-end="url(#tip)"{dash}/>'


_WRITERS: dict[Form, Callable[[Picture], str]] = {Form.MERMAID: _mermaid, Form.DOT: _dot, Form.SVG: _svg}
