"""Everything that is measured, one table after the other; make bench ONLY=assembly is one part."""

from __future__ import annotations

import os
import sys

from builder.terminal import Terminal
from tests.bench import assembly, context, first_light, memory, xen

PARTS = {
    "assembly": assembly.measure,
    "launch": first_light.measure,
    "context": context.measure,
    "memory": memory.measure,
    "xen": xen.measure,
}

terminal = Terminal()
wanted = sys.argv[1:] or list(PARTS)
if unknown := [name for name in wanted if name not in PARTS]:
    sys.exit(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
busy = f"load {os.getloadavg()[0]:.1f} at the start"
terminal.say(f"{os.cpu_count()} cores, {busy}; seconds, medians")
for name in wanted:
    PARTS[name](terminal)
