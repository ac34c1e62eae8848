"""The directive `flow`: draws steps that follow one another, from lines of text.

    ## who does the next steps
    title | file, file | what is done
    -> what the next step is given

The text can be read as it is where Markdown is shown plainly. The built page holds the drawing as SVG in
the colours of the theme. A file that is not there fails the build.
"""

from dataclasses import dataclass, field
from html import escape
from textwrap import wrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH, MARGIN, LANE = (
    760,
    12,
    130,
)  # pixels: of the drawing, around a box, of the column on the left
LINE, PADDING, GAP = 18, 12, 40  # pixels: of a line of text, inside a box, between two boxes
CHARACTERS = 92  # in a line of a box, at which its text is wrapped

STYLE = (
    ".flow{max-width:100%;height:auto;font-family:inherit;fill:var(--color-foreground-primary)}"
    ".flow rect{fill:var(--color-background-secondary);stroke:var(--color-background-border)}"
    ".flow path{fill:none;stroke:var(--color-foreground-muted)}"
    ".flow .lane{fill:var(--color-brand-primary);font-weight:600}"
    ".flow .file,.flow .passed{fill:var(--color-foreground-secondary)}"
    ".flow .file{font-family:var(--font-stack--monospace)}"
)


@dataclass
class Step:
    """One box: what it is called, the files that do it, what is done, and what it passes on."""

    title: str
    files: str
    done: list[str]
    lane: str | None
    passed: list[str] = field(default_factory=list)

    @property
    def height(self) -> int:
        return 2 * PADDING + LINE * (1 + len(self.done))


def parse(lines: list[str]) -> list[Step]:
    """The steps that the lines describe.

    Raises:
        ValueError: a line is none of the three kinds, or passes on what no step has made.
    """
    steps: list[Step] = []
    lane = None
    for line in filter(None, map(str.strip, lines)):
        if line.startswith("## "):
            lane = line.removeprefix("## ")
        elif line.startswith("-> "):
            if not steps:
                raise ValueError(f"nothing stands before {line!r}")
            steps[-1].passed.append(line.removeprefix("-> "))
        elif line.count("|") == 2:
            title, files, done = map(str.strip, line.split("|"))
            steps.append(Step(title, files, wrap(done, CHARACTERS), lane))
            lane = None
        else:
            raise ValueError(f"{line!r} is not 'title | files | what is done'")
    return steps


def _text(x: float, y: float, css: str, text: str, size: int = 13) -> str:
    return f'<text x="{x}" y="{y}" class="{css}" font-size="{size}">{escape(text)}</text>'


def _step(step: Step, y: int) -> list[str]:
    """One box whose upper edge is at `y`, with its lane on the left."""
    x, width = LANE, WIDTH - LANE - MARGIN
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{step.height}" rx="6"/>']
    if step.lane:
        parts += [
            _text(MARGIN, y + PADDING + LINE * i + 12, "lane", line)
            for i, line in enumerate(wrap(step.lane, 15))
        ]
    first = y + PADDING + 12
    parts.append(
        f'<text x="{x + PADDING}" y="{first}" font-size="14"><tspan font-weight="600">'
        f'{escape(step.title)}</tspan><tspan dx="12" class="file" font-size="12">'
        f"{escape(step.files)}</tspan></text>"
    )
    parts += [
        _text(x + PADDING, first + LINE * (i + 1), "done", line) for i, line in enumerate(step.done)
    ]
    return parts


def svg(steps: list[Step], title: str) -> str:
    """The drawing, of which `title` is what is read aloud."""
    y, parts = MARGIN, []
    for number, step in enumerate(steps):
        parts += _step(step, y)
        y += step.height
        if number < len(steps) - 1:
            gap = GAP + LINE * max(0, len(step.passed) - 1)
            x, end = LANE + 30, y + gap
            parts.append(f'<path d="M{x} {y}V{end - 2}m-5 -7l5 7l5 -7"/>')
            parts += [
                _text(x + 14, y + 24 + LINE * i, "passed", line, 12)
                for i, line in enumerate(step.passed)
            ]
            y = end
    return (
        f'<svg class="flow" role="img" viewBox="0 0 {WIDTH} {y + MARGIN}" width="{WIDTH}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</svg>"
    )


class Flow(SphinxDirective):
    required_arguments = 1  # the title
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            steps = parse(list(self.content))
        except ValueError as error:
            raise self.error(f"flow: {error}") from error
        for file in (file for step in steps for file in step.files.split(", ")):
            if not (self.env.srcdir / file).exists():
                raise self.error(f"flow: there is no {file}")
        return [nodes.raw("", svg(steps, self.arguments[0]), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("flow", Flow)
    return {"parallel_read_safe": True}
