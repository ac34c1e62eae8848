"""The directive `commands`: the help of every command of `paceline`, from its parser."""

import argparse
import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from paceline.benchmarks.cli.options import parser


class Commands(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        # argparse wraps and colours by these; a page is the same whatever terminal it is built in.
        os.environ |= {"COLUMNS": "90", "NO_COLOR": "1"}
        (verbs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
        return [_section(name, verb) for name, verb in verbs.choices.items()]


def _section(name: str, verb: argparse.ArgumentParser) -> nodes.section:
    text = verb.format_help().rstrip()
    title, block = nodes.title("", name), nodes.literal_block(text, text, language="text")
    return nodes.section("", title, block, ids=[f"paceline-{name}"], names=[name])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
