"""A shell in the tree of a step: as its user, with what the step is given. What is done in it is gone with it."""

from __future__ import annotations

from collections.abc import Mapping

from builder import placing
from builder.chamber import Chamber
from builder.provisions import Caches, at_hand
from builder.secrets import Secret
from builder.steps import Script, Step

_AS = """\
id -u {user} >/dev/null 2>&1 || {{ echo "no user {user} in the image: a shell as root" >&2; exec {shell}; }}
export HOME="$(getent passwd {user} | cut -d: -f6)" USER={user} LOGNAME={user}
cd 2>/dev/null || cd /
exec setpriv --reuid={user} --regid="$(id -g {user})" --init-groups {shell}
"""


def enter(
    step: Step,
    chamber: Chamber,
    caches: Caches,
    secrets: Mapping[str, Secret],
    epoch: int,
) -> int:
    """Run a shell with our own input and output; its exit status. It ends with its input, too.

    What the step has at hand is where the step finds it: packages, wheels or files below /run, secrets in /run/secrets.
    """
    user = step.user if isinstance(step, Script) else "root"
    # bash where the tree has it: a login shell's habits, and a history of its own.
    shell = '"$(command -v bash || command -v sh)"'
    given = {n: secrets[n] for n in getattr(step, "secrets", ()) if n in secrets}
    script = f"cd /root\nexec {shell}" if user == "root" else _AS.format(user=user, shell=shell)
    return chamber.attend(
        f"export PATH=/usr/local/sbin:/usr/local/bin:$PATH\n{script}",
        files=placing.secret_files(given, user, epoch) if given else b"",
        binds=at_hand(step, chamber, caches),
        epoch=epoch,
    )
