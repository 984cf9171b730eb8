"""Tests of an appliance: pytest files of its recipe over testinfra's `host`, run on its tree and on a booted guest.

2026-11-25  pytest and testinfra instead of a language of our own: whoever writes appliances knows pytest, an assertion
            shows what it saw, and testinfra has words for files, packages, services, sockets and users already.
            There is one marker, `boot`; a test without it is static. One-line checks in YAML would be a poorer way
            to say the same.
2026-11-25  pytest runs on our side, in a chamber as a step's: the image needs no pytest, and its tests no network. They
            are programs, so the machine is read-only to them, as far as root can be told that.
2026-11-25  An image is in the catalog only when the static tests of its whole chain hold, so a name never moves to an
            image that fails them. Boot tests cost a boot: `phx test` runs them and notes the answer beside the image.
"""
