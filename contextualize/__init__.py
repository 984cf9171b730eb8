"""A cluster's secret, names, roles and addresses turned into what each guest must know: an identity for every node, a
seed disk that carries it into the guest, the facts that nodes give to each other, and the channel between. Knows
nothing of hosts.

Decisions:

2026-11-22  The agent is alone in the guest: one file, the standard library only. It is copied into images as it is, and
            needs nothing there but python3.
2026-11-22  Everything is rendered on our side. The seed says which text goes into which file; the agent decides
            nothing, so what a node will be can be seen and compared before it boots.
2026-11-22  The agent speaks when asked, and repeats all its reports for whoever asks. A broker that died misses
            nothing, and no report needs to be stored on the way.
2026-11-22  Host keys and user keys are derived from the cluster's secret, as is all of a node's identity. Every node
            knows every peer's host key before boot, and planning twice gives the same seeds.
2026-11-22  ssh_to is least privilege: a node gets a private key only if its role may enter another, and only nodes of
            the roles named there admit it.
2026-11-24  Requirements are a role's, facts are named, a document is a node's. Documents are compared by digest, so
            only what changed is told, and nothing of a broker has to survive it.
2026-11-24  A late fact is never in a seed. A node keeps its last context on its own disk, so a reboot needs no broker.
2026-11-24  What a peer change does to a node is declared: it `sees` roles, files `reload` units, hooks lie in folders
            that are named for what changed.
2026-11-24  HTTPS is an upgrade to the same lines: one protocol, two ways. The broker's certificate is derived, so its
            pin is in every seed before any broker runs.
2026-11-24  Agent and broker share no code: the agent is one file of the standard library, the broker's side is typed.
2026-11-25  What is long and the same on many nodes (hosts, known hosts, a role's files, facts) stands in a document as
            its digest, and goes out only to who asks for it: peers that a seed told of are not told again. Our side
            holds and signs little, however many nodes there are. Deltas of files would need to know what a node has.
2026-11-25  What nodes of a role are told alike is made once; a template that does not look at `this` is rendered once.
2026-11-25  An agent that opens its port speaks unasked: who listens had asked the one before. A fact that was given
            stays the same until the next boot, whoever runs the agent: it is kept in /run, for root alone.
2026-11-25  No facts on our disk. They are asked for again of living nodes, and nothing changes for a node before all
            that were ready have repeated theirs (5 s at most). A giver that is off is started again by `phx up`, and
            gives anew; what is in force at the others stays in force meanwhile.
2026-11-25  HTTPS hands the broker the TLS connection itself. Through asyncio's streams each took 300 KiB and two more
            files, and a machine that was killed held its node's place for ever: a newer connection replaces an older.
2026-11-25  An image with cloud-init and no agent of ours is brought one by its seed: cloud-init makes the identity, as
            it does everywhere, and late facts have one protocol for all images.
"""
