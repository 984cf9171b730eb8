"""What nodes use of what they are promised: counters from the hypervisor, rates between two looks, metrics for
Prometheus, and the account of what each owner held and used.

Decisions:

2026-11-25  Counters are read through the hypervisor alone, one domain at a time: libvirt's Xen driver has no call for
            all of them at once, and an agent in the guest would measure what the guest wants us to see.
2026-11-25  A node is called starved only when it had work for its whole guarantee and got less than nine tenths of it.
            A node that is idle uses less than its guarantee as well.
2026-11-25  What is used is kept as one row for each node and hour, added to whenever somebody looks; what is held, as
            the moments at which it changed. Integrals are computed when they are asked for, never kept.
"""
