"""Guarantees proved on real guests: experiments under real load, what they recorded, the claims that this must bear
out, and the pictures. `make figures` runs all of it; `series` and `claims` are pure, and are tested on recordings.

Decisions:

2026-11-25  The experiments share one core. Where each guest has a core of its own, nothing has to be guaranteed. The
            sandbox host is kept to one CPU, and the load comes from another one, so that what is measured is not what
            measures.
2026-11-25  Throughput is counted where the user is: requests that were answered, at the load's end. What the hypervisor
            says of CPU time is recorded beside it, for the limits.
2026-11-25  Claims are ratios within one run. How fast this machine is must not decide whether a guarantee holds.
"""
