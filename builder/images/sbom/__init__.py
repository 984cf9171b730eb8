"""What an image holds and where it came from, as documents that others read: SPDX, CycloneDX, SLSA provenance.

    look          reads a finished tree, when its image is made: packages, their copyright files, Python's own lists
    inventory     what it saw, kept beside the image as inventory.json
    licences      Debian's words for licences turned into SPDX's
    spdx, cyclonedx  the inventory as such a document, when somebody asks
    provenance    what went into a build, kept beside the image as provenance.json

Decisions:

2026-11-25  Looking happens once, beside the writing of the filesystem (0.4 s of a core that was idle). Documents are
            rendered when asked: their libraries take 0.2 s to be read, and a catalog would keep each text twice.
2026-11-25  Nothing in them tells when or by whom they were made, but for the host in the provenance: identifiers follow
            from the image's id, times are the epoch.
2026-11-25  SPDX 2.3, not 3: the library of the SPDX project writes and checks 2.3, and readers take it.
"""
