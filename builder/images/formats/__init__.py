"""An image of the catalog written in other formats, for hypervisors, tools and machines that are not ours.

    export      which format is made how; the file appears whole or not at all
    containers  a disk in qcow2, VMDK or VHD
    archives    the tree as a tar or a container image
    filesystems the tree as squashfs or erofs, or why not
    bootable    a disk with GRUB, for machines that boot themselves
    partitions  a disk divided
    cli         the command

Every format comes out the same bytes each time, from every folder, as root or not.

Decisions:

2026-11-25  A container image has one layer. What the last step of a build removes (host keys, logs) would otherwise be
            in the layers below, for everybody to read, and no two builds would be the same.
2026-11-25  qemu-img stamps clock and chance into VMDK and VHD. These are the same few bytes always, so they are written
            over; a writer of our own would have to be kept right for years.
2026-11-25  GRUB is put on a disk by us, from grub-mkimage's output: grub-install wants a mounted filesystem and a block
            device. Kernel and initrd lie on the FAT partition, so that the root filesystem stays the image's own bytes.
2026-11-25  btrfs is refused: mkfs.btrfs of Debian 12 writes random UUIDs and the clock into every image.
2026-11-25  xfs is refused: mkfs.xfs of Debian 12 fills a filesystem from a list that knows neither times nor attributes
            nor hard links, and names without spaces only. An image that lost these silently would be worse than none.
"""
