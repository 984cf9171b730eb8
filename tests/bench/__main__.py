"""Everything that is measured, one table after the other."""

from __future__ import annotations

import os
import sys

from builder.terminal import Terminal
from tests.bench import assembly, context, first_light

terminal = Terminal()
terminal.say(f"{os.cpu_count()} cores; seconds, medians")
wanted = sys.argv[1:]
if not wanted or "assembly" in wanted:
    assembly.measure(terminal)
if not wanted or "launch" in wanted:
    first_light.measure(terminal)
if not wanted or "context" in wanted:
    context.measure(terminal)
