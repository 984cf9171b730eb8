"""The machine on which an emulated Xen host boots, and QEMU's command line for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder import accelerator
from builder.images.disk import HYPERVISOR
from builder.images.manifest import Manifest
from cluster.domain import CHANNEL
from contextualize.identity import Identity

DISK = "disk.qcow2"
KERNEL = "vmlinux"
"""dom0's kernel as an ELF file, which Xen boots without unpacking anything."""


@dataclass(frozen=True, slots=True)
class Emulated:
    """What QEMU shows Xen. `memory` and `disk` in bytes; `port` of ours leads to its sshd."""

    name: str
    folder: str
    run: str
    image: str
    memory: int
    cores: int
    disk: int
    port: int
    accelerator: str


def argv(machine: Emulated, image: Manifest, identity: Identity) -> list[str]:
    """QEMU's command line, to be run in the folder of xen, KERNEL and initrd: a module's name has no blanks."""
    folder, options = Path(machine.folder), image.hypervisor or ""
    kernel = (
        f"console=hvc0 root=/dev/vda rw {image.cmdline} systemd.machine_id={identity.machine_id}"
    )
    # Nested virtualization, for guests that need it (PVH, HVM), which emulation shows too. Another emulated processor
    # than the plainest crashes dom0 (libvirt.md, 1).
    kinds = {"kvm": ("kvm", "host"), "qemu": ("tcg,thread=multi", "qemu64,+svm,+npt")}
    accel, cpu = kinds[machine.accelerator]
    return [
        accelerator.QEMU, "-name", f"phx-{machine.name}", "-accel", accel, "-cpu", cpu,
        "-machine", "pc", "-smp", str(machine.cores), "-m", f"{machine.memory >> 20}M",
        "-nodefaults", "-no-user-config", "-display", "none",
        # A reboot of dom0 is one of the machine; a Xen that has crashed stays where it is, and is read on the console.
        "-kernel", HYPERVISOR, "-append", f"console=com1 noreboot {options}".strip(),
        # QEMU reads a list here, each file with its options; a comma inside is doubled.
        "-initrd", f"{KERNEL} {comma(kernel)},initrd",
        "-chardev", f"socket,id=console,path={comma(machine.run)}/console,server=on,wait=off,"
                    f"logfile={comma(folder)}/console.log,logappend=on",
        "-serial", "chardev:console",
        # The host is as durable as a process: nothing waits for our disk.
        "-drive", f"{disk_of(folder)},format=qcow2,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=seed,file={comma(folder)}/seed.iso,format=raw,readonly=on",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{machine.port}-:22",
        "-device", f"virtio-net-pci,netdev=net,mac={identity.mac},romfile=",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=context,path={comma(machine.run)}/context,server=on,wait=off",
        "-device", f"virtserialport,chardev=context,name={CHANNEL}",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def disk_of(folder: Path) -> str:
    """How the command line names the host's disk: no other process has it."""
    return f"if=none,id=root,file={comma(folder)}/{DISK}"


def comma(text: object) -> str:
    return str(text).replace(",", ",,")
