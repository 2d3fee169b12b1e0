"""FAMILY: how the labels of a cell are spent, on training and on selection. Knows no method."""

from __future__ import annotations

from collections.abc import Mapping

from handful.identity import DEFAULT_PROTOCOL
from handful.protocols.budget import Budget
from handful.protocols.holdout import Holdout
from handful.protocols.paper import Paper
from handful.protocols.protocol import LabelProtocol

PROTOCOLS: Mapping[str, type] = {member.name: member for member in (Budget, Holdout, Paper)}

DEFAULT: LabelProtocol = PROTOCOLS[DEFAULT_PROTOCOL]()
"""Where a study names none; a spec that says nothing of a protocol means this one."""

__all__ = ["DEFAULT", "PROTOCOLS", "Budget", "Holdout", "Paper"]
