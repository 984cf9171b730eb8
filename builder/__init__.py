"""Recipes turned into appliances: a recipe with its parents becomes a plan of steps, each step a layer, the last layer
an image (root filesystem, kernel, initrd) with a manifest, kept in the catalog. This package knows nothing of clusters.

Decisions:

2026-11-22  Layers are overlayfs upper folders, named by the id of their step. The id is computed before anything runs
            and covers the parent, so a layer that is there is never made again, and a plan is complete from the start.
2026-11-22  A step runs in a chamber: namespaces of its own over the layers below. Its mounts and processes are gone
            however it ends, and nothing of the machine has to be cleaned up.
2026-11-22  No step has a network. apt's own resolver is asked once, its answer is kept as a lock, and bootstrap and
            install take their packages from an archive of exactly the locked ones. What a script would fetch is not
            in its layer's id, so it comes in as a package or a file of the recipe.
2026-11-22  The epoch of a plan is the date of the mirror's Release file when it was asked: no file of an image is
            younger, every package's own files are older. Which mirror it was leaves no trace in the image.
2026-11-22  Packages are unpacked by us, side by side, and configured by dpkg in one pass; dpkg's database is written
            for that. mmdebstrap makes the same tree more slowly and stays as the oracle of a test.
2026-11-22  The initrd is written by us, from busybox and the modules that the recipe names. It loads what the
            hypervisors need, in order, and waits for nothing else.
2026-11-24  An image's age counts from the mirror's date, not from the build: what is built from an old lock is old.
            Capabilities add up along a chain, because a child's tree has all that its parents' have.
2026-11-24  What a recipe fetches by URL is kept under its sha256 and told to a layer by it alone: the URL is a place to
            look, not an input.
2026-11-22  update-initramfs is diverted in the tree. Its initrd is not used, and two runs of it would cost 20 s.
2026-11-24  An ordinary user builds in a user namespace, with the ids that /etc/subuid lends. One store has one owner:
            layers of root and of a user hold other numbers for the same owner.
2026-11-24  Layers are a cache with a size limit. What images were made from goes last, but goes: an image stands alone.
2026-11-24  A layer's digest is noted when it is committed (0.5 s for base), so that fsck can tell what rotted.
2026-11-25  A read-only root is a recipe's choice, not an export's: the initrd must mount it. What changes lies on a
            partition of its own rather than behind the filesystem, as a loop device would be needed to mount that.
2026-11-24  ext4 is written by us. mke2fs takes files in the order in which a folder lists them and stamps the clock, so
            the tree had to be copied to a tmpfs (all of it in memory) and the inodes mended: 2 s more for a change,
            and other bytes with another e2fsprogs.
2026-11-25  A filesystem that we did not make is looked at by libguestfs, in a machine of its own (7 s to start under
            emulation, 5 s more to find out what is on the disk), and never mounted by our own kernel.
2026-11-25  A build's secret comes by a pipe and is looked for in the layer afterwards. Its name is an input of the
            layer, its value is not: who gets another token gets the same image.
2026-11-25  Python packages are wheels only: compiling would bring a compiler in, and other bytes each time. The pip
            that installs them is locked as they are, and stays out of the image.
2026-11-25  An archive of a child's counts for the child alone, and its date for nobody: parents' layers stay shared.
2026-11-25  A lock renewed in part keeps its date, because the date is an input of the first layer.
2026-11-25  A recipe with a matrix makes no image of its own name: which variant that is would be a guess.
2026-11-25  A step's fsync waits for nothing (overlayfs's volatile): dpkg asks for 1,200 in a first layer. What a step
            that did not end has written is thrown away; whether a layer survived a power cut is for fsck to tell.
"""
