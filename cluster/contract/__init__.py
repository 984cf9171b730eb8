"""What was promised to nodes that run: changed by agreement, journalled while it changes, read back and shown.

Decisions:

2026-11-25  A term that was agreed stands until the cluster file says something else of the same key than it did then:
            what was said last holds. So an unchanged file takes nothing back, and a file that is edited is obeyed.
2026-11-25  A change is journalled before its first setting is made, and holds when the ledger says so, in one
            transaction with the terms. Cut off before that it is taken back by the next phx, after that it is finished.
2026-11-25  A cut-off change counts with the larger of its two guarantees at admission: what may be in force is never
            given to another.
2026-11-25  A scheduled change holds no room before its time. Rooms that are held for later would be a lease, which says
            until when as well. No process stands by for it: a timer ticks, and whoever changes the cluster ticks first.
2026-11-25  Guests are heard by the same tick, for a moment, over the channel that they have: a process that held their
            channels would keep every other phx from them. What they ask for is a term like any other.
2026-11-25  Templates and Slurm see what the file says, not what was agreed since: a balloon that moves is no reason to
            tell every node of a cluster.
"""
