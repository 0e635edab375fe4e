"""Reads programs that were written for the originals, and says line by line what runs here unchanged and what does not.

    from simplesockets.check import check_source

    for finding in check_source("from simplesockets import SecureServer\\nserver = SecureServer()\\nserver.setup()\\n"):
        print(finding.line, finding.level, finding.text)

The originals are simplesockets up to 0.4.0, hisock up to 2.0.2 and happypandax_client 1.0.0. Nothing of a program is
run.

The files, in order: vocabulary (their names), facts (what is different), reader (what a program's names stand for),
signatures, rules (which places a fact is about), command.
"""

import ast
import warnings

from .facts import FACTS, Fact
from .reader import ROUNDS, Knowledge, Reader
from .rules import Finding, Rules

__all__ = ["FACTS", "Fact", "Finding", "check_source"]


def check_source(source: str | bytes, filename: str = "<program>") -> list[Finding]:
    """What there is to say about a program.

    Args:
        source: its text; bytes may declare their encoding, as files do.
        filename: for the message of a SyntaxError.

    Returns:
        The findings, in the order of the program.

    Raises:
        SyntaxError: it is no program of Python 3.
        ValueError: it contains null bytes, or is not in its encoding.
        RecursionError: an expression in it is nested too deeply.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the program's style, which is not ours
        tree = ast.parse(source, filename)
    installs = any(isinstance(node, ast.Attribute) and node.attr == _INSTALL for node in ast.walk(tree))
    installs = installs or any(isinstance(node, ast.alias) and node.name == _INSTALL for node in ast.walk(tree))
    knowledge = Knowledge()
    for _ in range(ROUNDS):
        rules = Rules(installs)
        knowledge.changed = False
        Reader(knowledge, rules).read(tree)
        if not knowledge.changed:
            break
    lines = (source.encode() if isinstance(source, str) else source).splitlines()  # as Python counts them
    return [finding for finding in rules.findings() if ACCEPTED not in lines[finding.line - 1]]


ACCEPTED = b"# check: ok"
"""What a line says about which there is nothing more to tell."""
_INSTALL = "install_as_hisock"
