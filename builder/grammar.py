"""Command lines that typer's options cannot say: a list after an option, a value that may be absent."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class LockCommand(TyperCommand):
    """What stands after --update, up to the next option, are packages."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--update" in args:
            at = args.index("--update") + 1
            end = next((n for n in range(at, len(args)) if args[n].startswith("-")), len(args))
            names = [word for name in args[at:end] for word in ("--package", name)]
            args = [*args[:at], *names, *args[end:]]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[--update [PACKAGE]...]"]


class BuildCommand(TyperCommand):
    """--shell may have the number of a step: --shell=6."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [a.partition("=") if a.startswith("--shell=") else (a, "", "") for a in args]
        return super().parse_args(
            ctx, [word for a, eq, n in words for word in (("--shell-at", n) if eq else (a,))]
        )
