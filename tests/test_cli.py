"""`phx` as it is typed: its help, what it prints where, and the exit status of each kind of error."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import typer.main

from cluster import cli
from cluster import draft as drafts
from cluster.site import Site
from tests.invented import CLUSTER, IMAGE, LAB
from tests.test_recipe import ROOT


@pytest.fixture
def phx(tmp_path, monkeypatch, capsys):
    """Run the program: (exit status, standard output, standard error). Its home and library are in a fresh folder."""
    for name, value in {
        "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "PHX_HOME": str(tmp_path / "home"),
        "PHX_RECIPES": str(tmp_path / "recipes"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["phx", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, *(text.replace(str(tmp_path), "TMP") for text in (said.out, said.err))

    return run


@pytest.fixture
def home(tmp_path, phx):
    """A home with one image and one host that does not run."""
    site = Site(tmp_path / "home")

    def make(folder):
        (folder / "manifest.json").write_text(IMAGE.to_json())
        return IMAGE

    site.catalog.add(make)
    site.ledger.put_host(LAB)
    site.ledger.close()
    return tmp_path / "home"


def commands(command=None, words=()):
    command = command or typer.main.get_command(cli.app)
    yield words
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], (*words, name))


@pytest.mark.parametrize("words", list(commands()), ids=lambda w: " ".join(w) or "phx")
def test_help(words, phx, golden):
    status, out, err = phx(*words, "--help")
    assert (status, err) == (0, "")
    golden(
        f"help/{'-'.join(('phx', *words))}.txt",
        "\n".join(line.rstrip() for line in out.splitlines()) + "\n",
    )


def test_all_commands_have_words_for_people():
    root = typer.main.get_command(cli.app)
    for words in commands():
        command = root
        for word in words:
            command = command.commands[word]
        assert command.help, words


@pytest.mark.parametrize(
    ("words", "panel"), [((), "Clusters"), (("host",), "Commands"), (("image",), "Commands")]
)
def test_alone_it_shows_its_help(words, panel, phx):
    status, out, err = phx(*words)
    assert status in (0, 2) and panel in out + err


# Errors: exit status and text.


def test_a_broken_recipe_is_2(phx, tmp_path):
    folder = tmp_path / "recipes" / "base"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(ROOT.replace("1G", "1.5G") + "pakages: []\n")
    status, out, err = phx("build", "base")
    assert (status, out) == (2, "")
    assert err == (
        "error: TMP/recipes/base/recipe.yaml:6: size: '1.5G' is not a size\n"
        "  hint: write a whole number with one of K, M, G, T, as in 512M\n"
        "error: TMP/recipes/base/recipe.yaml:7: pakages: unknown key 'pakages'\n"
        "  hint: did you mean 'packages'?\n"
        "2 errors, nothing was done\n"
    )


def test_a_recipe_that_is_not_there_is_2(phx, tmp_path):
    (tmp_path / "recipes" / "base").mkdir(parents=True)
    (tmp_path / "recipes" / "base" / "recipe.yaml").write_text(ROOT)
    assert phx("build", "bsae") == (
        2,
        "",
        "error: no recipe 'bsae'\n  hint: did you mean 'base'?\n",
    )


def test_a_set_without_a_value_is_2(phx, tmp_path):
    (tmp_path / "recipes" / "base").mkdir(parents=True)
    (tmp_path / "recipes" / "base" / "recipe.yaml").write_text(ROOT)
    status, out, err = phx("build", "base", "--set", "port")
    assert (status, out, err) == (2, "", "error: --set: 'port' is not NAME=VALUE\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lock", "base", "--update", "openssl", "curl"),
         "error: there is no TMP/recipes/base/recipe.lock to update in part\n"
         "  hint: phx lock base writes it\n"),
        (("lock", "--update", "base"),
         "error: no recipe is named\n  hint: name one, as in: phx build base; or --all\n"),
        (("lock", "base", "--update", "openssl", "--all"),
         "error: --all means every recipe\n  hint: leave the names out, or --all\n"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)  # fmt: skip
def test_what_stands_after_update_are_packages(words, said, phx, tmp_path):
    (tmp_path / "recipes" / "base").mkdir(parents=True)
    (tmp_path / "recipes" / "base" / "recipe.yaml").write_text(ROOT)
    assert phx(*words) == (2, "", said)


def made(home):
    """All that lies in a home, but for what SQLite keeps beside an open ledger."""
    return sorted(p for p in home.rglob("*") if not p.name.startswith("ledger.sqlite-"))


def test_a_broken_cluster_is_2_and_nothing_is_made(phx, home, tmp_path):
    (tmp_path / "c.yaml").write_text(CLUSTER.replace("512M", "512"))
    before = made(home)
    for words in (("plan",), ("up",)):
        status, out, err = phx(*words, tmp_path / "c.yaml")
        assert (status, out) == (2, "")
        assert err == (
            "error: TMP/c.yaml:7: roles.head.memory: 512 is not a size\n"
            "  hint: write a whole number with one of K, M, G, T, as in 512M\n"
        )
    assert made(home) == before


def test_a_file_that_is_not_there_is_2(phx, tmp_path):
    status, out, err = phx("plan", tmp_path / "nothing.yaml")
    assert (status, out, err) == (2, "", "error: TMP/nothing.yaml: there is no such file\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ps", "dmo"), "error: no cluster 'dmo'\n  hint: there is none: phx up CLUSTER.yaml\n"),
        (("down", "dmo"), "error: no cluster 'dmo'\n  hint: there is none: phx up CLUSTER.yaml\n"),
        (("ssh", "head-1"), "error: no node 'head-1'\n  hint: there is no cluster: phx up CLUSTER.yaml\n"),
        (("logs", "head-1"), "error: no node 'head-1'\n  hint: there is no cluster: phx up CLUSTER.yaml\n"),
        (("console", "head-1"), "error: no node 'head-1'\n  hint: there is no cluster: phx up CLUSTER.yaml\n"),
        (("host", "show", "lap"), "error: no host 'lap'\n  hint: did you mean 'lab'?\n"),
        (("host", "down", "lap"), "error: no host 'lap'\n  hint: did you mean 'lab'?\n"),
        (("host", "add", "lab", "qemu:///system"),
         "error: there is a host 'lab' already\n  hint: phx host down lab first\n"),
        (("image", "show", "wroker"), "error: no image 'wroker' in the catalog\n  hint: did you mean 'worker'?\n"),
        (("image", "rm", "wroker"), "error: no image 'wroker' in the catalog\n  hint: did you mean 'worker'?\n"),
        (("host", "up", "x", "--network", "fast"),
         "error: --network: 'fast' is not a rate\n"
         "  hint: write a whole number with one of kbit, Mbit, Gbit, as in 20Mbit\n"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)  # fmt: skip
def test_what_is_not_there_is_2_and_the_nearest_is_named(words, said, phx, home):
    assert phx(*words) == (2, "", said)


def test_a_host_that_does_not_run_is_3(phx, home):
    assert phx("host", "show", "lab") == (
        3,
        "",
        "error: host 'lab' does not run\n  hint: phx host up lab\n",
    )


def test_a_libvirt_that_is_not_there_is_3(phx, home):
    uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"
    status, out, err = phx("host", "add", "far", uri)
    assert (status, out) == (3, "") and err.startswith(f"error: no libvirt at {uri}\n  because: ")


def test_without_root_nothing_is_made_on_the_way_to_saying_so(phx, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(CLUSTER)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for words in (("host", "up"), ("up", tmp_path / "c.yaml")):
        assert phx(*words) == (
            3, "", "error: a sandbox host needs root (namespaces, mounts)\n  hint: run it with sudo\n",
        )  # fmt: skip
    assert not (tmp_path / "home").exists()


def test_too_big_a_cluster_is_4(phx, home, tmp_path):
    (tmp_path / "c.yaml").write_text(CLUSTER.replace("1G", "100G"))
    assert phx("plan", tmp_path / "c.yaml") == (
        4, "", "error: no host for worker-1: needs 0.5 cores, 100G, 4G of disk and 20Mbit\n"
        "  hint: roomiest is lab with 3.6 cores, 7G, 396.0G of disk and 1Gbit left\n",
    )  # fmt: skip


def test_an_interrupt_is_130(phx, home, tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(drafts, "draft", interrupted)
    (tmp_path / "c.yaml").write_text(CLUSTER)
    status, out, err = phx("plan", tmp_path / "c.yaml")
    assert (status, out) == (130, "") and "run the same command again" in err


def test_a_bug_shows_its_traceback(phx, home, tmp_path, monkeypatch):
    def wrong(*_args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(drafts, "draft", wrong)
    (tmp_path / "c.yaml").write_text(CLUSTER)
    with pytest.raises(ZeroDivisionError):
        phx("plan", tmp_path / "c.yaml")


# Results go to standard output, and as JSON when asked.


def test_results_as_json(phx, home, tmp_path):
    (tmp_path / "c.yaml").write_text(CLUSTER)
    for words, check in (
        (("image", "ls", "--json"), lambda r: r[0]["id"] == IMAGE.id),
        (("image", "show", "worker", "--json"), lambda r: r["name"] == "worker"),
        (("host", "ls", "--json"), lambda r: r[0]["name"] == "lab" and r[0]["answers"] is False),
        (("ps", "--json"), lambda r: r == []),
        (("plan", tmp_path / "c.yaml", "--json"), lambda r: r["changes"] == 3),
    ):
        status, out, err = phx(*words)
        assert (status, err) == (0, ""), words
        assert check(json.loads(out)), words


def test_results_for_people(phx, home):
    assert phx("host", "ls") == (
        0, "HOST  KIND     ANSWERS  URI\n"
        "lab   sandbox  no       qemu+unix:///system?socket=/nonexistent/run/lab/libvirt-sock\n", "",
    )  # fmt: skip
    assert phx("ps") == (0, "no nodes; start some: phx up CLUSTER.yaml\n", "")
    status, out, _ = phx("image", "ls")
    assert status == 0 and out.splitlines()[1].split()[:3] == [IMAGE.id[:12], "worker", "1.0"]


def test_a_host_promises_its_disk_space_as_often_as_it_is_told(phx, home, tmp_path):
    (tmp_path / "c.yaml").write_text(CLUSTER.replace("count: 2", "count: 2\n    disk: 200G"))
    assert phx("plan", tmp_path / "c.yaml")[0] == 4, (
        "4 times 99G are not two disks of 200G and one of 4G"
    )
    assert (
        phx("host", "overcommit", "lab", "4.5")[1]
        == "host 'lab' promises its disk space 4.5 times\n"
    )
    assert phx("plan", tmp_path / "c.yaml")[0] == 0
    assert phx("host", "overcommit", "lab", "0.9") == (
        2, "", "error: '0.9' is no factor from 1 to 100\n  hint: write it as in 1.5\n",
    )  # fmt: skip
    assert phx("host", "overcommit", "lab", "1")[0] == 0
    status, _, err = phx("plan", tmp_path / "c.yaml")
    assert (status, err) == (
        4, "error: no host for worker-1: needs 0.5 cores, 1G, 200G of disk and 20Mbit\n"
        "  hint: roomiest is lab with 3.6 cores, 7G, 99.0G of disk and 1Gbit left\n",
    )  # fmt: skip


def test_an_image_is_removed_by_the_start_of_its_id(phx, home):
    assert phx("image", "rm", IMAGE.id[:8]) == (0, f"worker {IMAGE.id[:12]} removed\n", "")
    assert phx("image", "rm", "worker")[0] == 2


def test_a_host_of_libvirts_own_is_shown_and_forgotten(phx, home):
    """Over libvirt's own test driver; no guest is claimed to work."""
    site = Site(home)
    site.ledger.put_host(
        replace(LAB, name="far", kind="libvirt", uri="test:///default", folder="", netns="")
    )
    site.ledger.close()
    status, out, err = phx("host", "show", "far")
    assert (status, err) == (0, "") and out.startswith("far: libvirt, test ")
    assert "disk         100.0G free, promised 1 times\n" in out
    assert "left         3.6 cores, 7G, 99.0G of disk and 1Gbit\ndomains      0\n" in out
    assert phx("host", "down", "far") == (0, "host 'far' is gone\n", "")
    assert phx("host", "show", "far")[0] == 2
