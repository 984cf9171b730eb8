"""A tree laid out as an ext4 filesystem, by us.

Why not `mke2fs -d`: it takes files in the order in which a folder lists them and stamps the clock into every inode, so
the tree had to be copied to memory in sorted order first, and all times mended afterwards. Here the same tree gives
the same bytes with every version of every tool, nothing is copied, and the image can be digested while it is written.

The layout is simple: superblock, group descriptors, bitmaps and inode tables of all groups, journal, folders, then the
files in the order of their paths, each in one piece. Only copies of the superblock stand between. Folders are linear,
as mke2fs writes them; e2fsck and the kernel index what grows. Features are those of Debian 12's mke2fs but for
resize_inode: from 8 GiB on, the kernel grows such a filesystem with meta_bg.

geometry  how the disk is divided, and its blocks are given out
inode     an inode, its extents, a folder's entries
groups    superblock, descriptors, bitmaps
layout    all of it in the order of the disk

Format: Documentation/filesystems/ext4 in the kernel, with its names of fields. e2fsck is the judge: tests/test_ext4.py.
"""
