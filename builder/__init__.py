"""Recipes turned into appliances: a recipe with its parents becomes a plan of steps, each step a layer, the last layer
an image (root filesystem, kernel, initrd) with a manifest, kept in the catalog. This package knows nothing of clusters.

Decisions:

2026-11-22  Layers are overlayfs upper folders, named by the id of their step. The id is computed before anything runs
            and covers the parent, so a layer that is there is never made again, and a plan is complete from the start.
2026-11-22  A step runs in a chamber: namespaces of its own over the layers below. Its mounts and processes are gone
            however it ends, and nothing of the machine has to be cleaned up.
2026-11-22  Run steps have no network; only bootstrap and install do. What a script would fetch is not in its layer's
            id, so it comes in as a package or a file of the recipe.
2026-11-22  The initrd is written by us, from busybox and the modules that the recipe names. It loads what the
            hypervisors need, in order, and waits for nothing else.
2026-11-22  update-initramfs is diverted in the tree. Its initrd is not used, and two runs of it would cost 20 s.
"""
