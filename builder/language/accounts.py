"""Users of recipes given their numbers: the same recipe gives the same ones, and no parent's depend on its child."""

from __future__ import annotations

from dataclasses import dataclass

from builder.document import Place
from builder.language.entries import User
from builder.language.scope import Scope


@dataclass(frozen=True, slots=True)
class Account:
    """A user with its numbers. `gid` is its own group's, made with it; None when `group` is there already."""

    name: str
    uid: int
    gid: int | None
    group: str
    home: str
    shell: str
    groups: tuple[str, ...]
    system: bool
    summary: str


class Numbers:
    """uids and gids that are given out, over a chain of recipes, root first.

    Numbers that are written come first within a recipe; the others follow in the order of the text, the first free
    one from 1000 upwards, for system users from 900 downwards. Those of packages' own users are not known
    here: Debian gives them out from 100 upwards and from 999 downwards.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.uids: dict[int, str] = {}
        self.gids: dict[int, str] = {}

    def allot(self, asked: list[tuple[Scope, Place, User]]) -> tuple[Account, ...]:
        """One recipe's users; what is wrong with them is told to their scopes."""
        fresh = []
        for scope, place, user in asked:
            if user.name in self.names:
                what = f"the user {user.name} is there already, from {self.names[user.name]}"
                scope.wrong((*place, "name"), what, "keep one of the two")
                continue
            self.names[user.name] = scope.document.where((*place, "name")).rpartition(": ")[0]
            fresh.append((scope, place, user))
            own = user.gid if user.gid is not None or user.group else user.uid
            for key, number, taken in (("uid", user.uid, self.uids), ("gid", own, self.gids)):
                if number is None:
                    continue
                if number in taken:
                    at = (*place, key if getattr(user, key) is not None else "uid")
                    what = f"the {key} {number} is {taken[number]}'s already"
                    scope.wrong(at, what, "write another, or none to get a free one")
                    break
                taken[number] = user.name
        return tuple(self._account(user) for _, _, user in fresh)

    def _account(self, user: User) -> Account:
        uid = user.uid
        if uid is None:
            mine = user.group is None and user.gid is None
            order = range(900, 99, -1) if user.system else range(1000, 60000)
            uid = next(n for n in order if n not in self.uids and not (mine and n in self.gids))
            self.uids[uid] = user.name
            if mine:
                self.gids[uid] = user.name
        gid = None if user.group else (uid if user.gid is None else user.gid)
        return Account(
            user.name, uid, gid, user.group or user.name, user.home or f"/home/{user.name}",
            user.shell, user.groups, user.system, user.summary,
        )  # fmt: skip
