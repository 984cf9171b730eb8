"""What is in force on the hosts compared with what is promised: drift, each with a code, and what can be mended live.

Decisions:

2026-11-25  What shall be is drawn anew from the ledger, by the same planning as `phx up`: verify has no second opinion.
2026-11-25  `--fix` mends what no guest notices: rates, weights, caps, balloons, rules, a port of the bridge, devices of
            nobody. What would start, stop or replace a guest is told and left to `phx up`.
2026-11-25  Domains, networks and files of no cluster are told and never removed: on a libvirt that is shared they may
            belong to another home.
"""
