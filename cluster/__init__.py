"""Cluster files turned into running clusters: roles and guarantees become a plan for a host, the plan becomes disks,
seeds, domains and bandwidth, and the wait ends when every node is ready. `cluster.cli` is the front door, `phx`.

Decisions:

2026-11-22  The default host is a sandbox: a libvirtd of our own in namespaces of its own. It needs no systemd and
            leaves the machine's libvirt and network alone; its end is the end of all in it.
2026-11-22  Each domain carries a digest of what it was made from in its metadata, and is compared by that. libvirt
            gives back other XML than it was given. The same mark says which domains are ours.
2026-11-22  Bandwidth is held by htb on the tap and on an ifb device, set by netlink, not by libvirt's <bandwidth>. That
            one wants sfq and police, which not every kernel has, and drops where htb queues.
2026-11-22  A node's disk and seed are whole before its domain is defined. So a domain that exists has both, and
            `phx up` may die anywhere and be run again.
2026-11-22  Nodes are replaced or removed only when told, by --replace: their disks go with them.
2026-11-25  `phx scale`, `replace` and `recontext` keep the images that the nodes have: that somebody built a newer one
            must not make a small change a large one. `phx up` alone takes it, and says what that costs.
2026-11-25  Other tools get the one ssh_config that is there, Ansible's variables too: keys and ways are told once.
2026-11-25  A guest sends under its own addresses only, by nftables on the bridge: a table a cluster, with sets instead
            of a chain for each tap. What is in force is compared with what nft makes of the same rules in an empty
            namespace, its own words against its own words. A role may say `source: any`; a host without nft is
            refused.
2026-11-25  Who is ready is noted in the running domain and nowhere else (libvirt's live metadata): the ledger cannot
            know that a host was booted anew, or that somebody started a guest. Domain numbers begin again with a boot.
2026-11-25  autostart is libvirt's flag, where something holds a guest that starts without us: dom0's hook on Xen, phx
            itself on a sandbox. Elsewhere it is refused.
2026-11-25  Imported disks boot by their own kernel and initrd, taken out by libguestfs, on Xen as on QEMU. pygrub reads
            a guest's filesystem as root of dom0, and libxl cannot show it a qcow2 without a QEMU for dom0 (tried).
2026-11-25  An uplink is a device that somebody made and lends: phx makes no VXLAN, and takes no network card by itself.
            It serves one cluster at a time, since a device is a port of one bridge.
"""
