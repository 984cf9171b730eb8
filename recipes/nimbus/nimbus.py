#!/usr/bin/python3
"""A hook that runs the scripts of an appliance that was made for the Nimbus context agent, in that agent's order:

    1-ipandhost/ROLE IP SHORT FULL          for each node of the role
    2-thishost/NIC IP SHORT FULL            for each of this node's networks
    3-data/NAME FILE                        for each data and each fact of one node
    4-restarts/ROLE                         for each role
    5-thishost-finalize/NIC IP SHORT FULL   for each of this node's networks

A script that is not there is passed over; one that fails ends the hook with its status. At a join all of them run.
After a change only those with something new to say: nodes that came, data that changed, then the restarts of roles
whose nodes are others than before, and the last folder if anything ran.

A role goes by its own name, or by those that the data `nimbus_roles` gives it, a line for each: ROLE NAME...
Networks are called as in the data `nimbus_nics`, in order; else publicnic and localnic.

Source: ctx-agent/ctx/lib/actions.py, DefaultConsumeRetrieveResult, and ctx-agent/ctx/ctx.conf, of nimbusproject/nimbus.
"""

import hashlib
import json
import os
import subprocess
import sys

SCRIPTS = "opt/nimbus/ctx-scripts"
DONE = "run/philoxenia/nimbus.json"
"""What was said since this boot."""


def text(*names):
    """A file of the context; "" when there is none."""
    path = os.path.join(os.environ["PHX_DIR"], *names)
    if not os.path.isfile(path):
        return ""
    with open(path) as file:
        return file.read()


def names(folder):
    """Files directly in a folder of the context."""
    path = os.path.join(os.environ["PHX_DIR"], folder)
    found = sorted(os.listdir(path)) if os.path.isdir(path) else []
    return [n for n in found if os.path.isfile(os.path.join(path, n))]


def members():
    """Nimbus role -> [IP, short, full] of each of its nodes."""
    called = {w[0]: w[1:] for w in map(str.split, text("data", "nimbus_roles").splitlines()) if w}
    found = {}
    for role in names("roles"):
        for line in text("roles", role).splitlines():
            address, full, short = line.split()
            for name in called.get(role, [role]):
                found.setdefault(name, []).append([address, short, full])
    return found


def networks():
    """[name, IP, short, full] of each of this node's networks that has a name."""
    with open(os.environ["PHX_CONTEXT"]) as file:
        nics = json.load(file)["nics"]
    called = text("data", "nimbus_nics").split() or ["publicnic", "localnic"]
    mine = [text("this", what).strip() for what in ("short", "full")]
    return [[n, nic["address"].split("/")[0], *mine] for n, nic in zip(called, nics, strict=False)]


def data():
    """[name, path, digest of its bytes]."""
    found = []
    for folder in ("data", "facts"):
        for name in names(folder):
            path = os.path.join(os.environ["PHX_DIR"], folder, name)
            with open(path, "rb") as file:
                found.append([name, path, hashlib.sha256(file.read()).hexdigest()])
    return found


def main(root="/"):
    top, done = os.path.join(root, SCRIPTS), os.path.join(root, DONE)
    roles, nics, given = members(), networks(), data()
    before = {"roles": {}, "nics": [], "data": []}
    if os.environ["PHX_EVENT"] != "join" and os.path.exists(done):
        with open(done) as file:
            before = json.load(file)
    ran = []

    def script(folder, name, *words):
        path = os.path.join(top, folder, name)
        if not os.path.exists(path):
            return
        ran.append(path)
        print("nimbus:", folder + "/" + name, *words, flush=True)
        status = subprocess.call([path, *words])
        if status:
            print(f"nimbus: {path}: exit {status}", flush=True)
            sys.exit(max(status, 1))

    for role, nodes in roles.items():
        for node in nodes:
            if node not in before["roles"].get(role, []):
                script("1-ipandhost", role, *node)
    for nic in nics:
        if nic not in before["nics"]:
            script("2-thishost", *nic)
    for name, path, digest in given:
        if [name, path, digest] not in before["data"]:
            script("3-data", name, path)
    for role in {**roles, **before["roles"]}:
        if roles.get(role) != before["roles"].get(role):
            script("4-restarts", role)
    if ran:
        for nic in nics:
            script("5-thishost-finalize", *nic)
    with open(done, "w") as file:
        json.dump({"roles": roles, "nics": nics, "data": given}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
