"""What dpkg says of a maintainer script that failed is told with its package, its name and its own last words."""

from __future__ import annotations

import pytest

from builder.errors import CommandFailed, TimedOut
from builder.packages.scripts import HINT, Ear, ScriptFailed, blamed

POSTINST = """\
Setting up good (1) ...
good is set up
Setting up bad (2) ...
first words
last words
dpkg: error processing package bad (--configure):
 installed bad package post-installation script subprocess returned error exit status 3
Errors were encountered while processing:
 bad
E: Sub-process /usr/bin/dpkg returned an error code (1)"""

CASES = [
    ("a postinst, with its words and nobody else's", POSTINST,
     "the postinst script of bad ended with status 3; it said last:\n    first words\n    last words"),
    ("a preinst", "Preparing to unpack .../bad_2_all.deb ...\nno\n"
     "dpkg: error processing archive /run/apt/archives/bad_2_all.deb (--unpack):\n"
     " new bad package pre-installation script subprocess returned error exit status 1",
     "the preinst script of bad ended with status 1; it said last:\n    no"),
    ("a preinst of the first layer, which we run", "preinst of lib\noh\nthe preinst script of lib failed",
     "the preinst script of lib failed; it said last:\n    oh"),
    ("one that is killed", "Setting up bad:amd64 (2) ...\n"
     "dpkg: error processing package bad:amd64 (--configure):\n"
     " installed bad:amd64 package post-installation script subprocess was killed by signal (Killed)",
     "the postinst script of bad was killed (Killed); it said nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "said", "what"), CASES, ids=[c[0] for c in CASES])
def test_whose_script_failed(why, said, what):
    error = blamed(CommandFailed(["sh"], 100, said))
    assert isinstance(error, ScriptFailed)
    assert (error.what, error.hint) == (what, HINT), why


def test_what_is_no_scripts_fault_is_told_as_it_is():
    cause = CommandFailed(
        ["sh"], 100, "E: Unable to correct problems, you have held broken packages."
    )
    assert blamed(cause) is cause


def heard(*lines):
    reports = []
    ear = Ear(reports.append)
    for line in lines:
        ear(line)
    return ear, reports


def test_a_script_that_hangs_is_the_one_that_was_heard_last():
    ear, reports = heard(
        "Unpacking bad (2) ...", "Setting up bad:amd64 (2) ...", "waiting for", "", "Godot"
    )
    assert reports == ["  Unpacking bad (2) ...", "  Setting up bad:amd64 (2) ..."]
    late = ear.late(
        TimedOut("sh said nothing for 600 s; it last said: Godot", why="said nothing for 600 s")
    )
    assert isinstance(late, ScriptFailed)
    assert late.what == (
        "the postinst script of bad said nothing for 600 s; it said last:\n    waiting for\n    Godot"
    )


def test_before_any_script_it_is_the_steps_own_lateness():
    cause = TimedOut("sh did not end in time")
    assert heard("Reading package lists...")[0].late(cause) is cause
