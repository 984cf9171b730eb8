"""What a domain is told while it lives, and what is in force of it, by way of libvirt's own object for it.

Each setting is made in the running domain and in its definition, so that it is there again after a start. Xen has two
things of its own: scheduler parameters are no part of a definition, so the weight goes into it as shares and the cap is
told again after every start; and its driver knows no limits for disks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, assert_never
from xml.etree import ElementTree

from builder.errors import WorkFailed
from cluster.elements import Crash
from cluster.guarantee import Balloon, CpuTune, Credit, Setting, Throttle

DISK = "vda"
"""The device whose limits are promised: the first disk. `xvda` on Xen has none."""
CTRL_ALT_DEL = [29, 56, 111]
"""Linux' numbers of the keys (input-event-codes.h)."""
PATIENCE = 30.0
"""Seconds that a guest may take to shut down by itself."""


ANSWER = 5.0
"""Seconds that a guest's balloon driver may take to say what it could spare: it is asked every second."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What is in force of one domain; of one that is off, what will be. None is what the driver does not tell.

    vcpus, memory  what it booted with; without a restart it can have no more
    disk           bytes of its first disk
    """

    cpu: CpuTune | Credit | None
    balloon: Balloon
    throttle: Throttle | None
    vcpus: int
    memory: int
    disk: int | None = None
    running: bool = True

    def holds(self, setting: Setting) -> bool:
        """Whether it is in force. A balloon moves in whole pages, Xen's in MiB: so much may be missing."""
        match setting:
            case CpuTune() | Credit():
                return self.cpu == setting
            case Balloon(memory):
                return abs(self.balloon.memory - memory) < 1 << 20
            case Throttle(throughput, iops):
                return self.throttle == setting or (self.throttle is None and not throughput + iops)
            case _:
                assert_never(setting)


def tell(lib: Any, domain: Any, setting: Setting) -> None:
    """Make one setting, in the running domain and in its definition. Raises what libvirt raises, WorkFailed else."""
    match setting:
        case CpuTune(shares, quota, period):
            wanted = {"cpu_shares": shares, "global_period": period, "global_quota": quota}
            for flag in _each(lib, domain):
                _known(domain.setSchedulerParametersFlags, wanted, flag)
        case Credit(weight, cap):
            if domain.isActive():
                _known(domain.setSchedulerParameters, {"weight": weight, "cap": cap})
            _define_shares(lib, domain, weight)
        case Balloon(memory):
            for flag in _each(lib, domain):
                domain.setMemoryFlags(memory >> 10, flag)
        case Throttle(throughput, iops):
            limits = {"total_bytes_sec": throughput, "total_iops_sec": iops}
            for flag in _each(lib, domain):
                _known(domain.setBlockIoTune, DISK, limits, flag)
        case _:
            assert_never(setting)


def told(lib: Any, domain: Any) -> Tuned:
    """What is in force: of a running domain, what its cgroup, its QEMU or Xen says, not what its definition says."""
    root = ElementTree.fromstring(domain.XMLDesc())
    _, most, memory, _, _ = domain.info()
    return Tuned(
        _cpu(lib, domain), Balloon(memory << 10), _throttle(lib, domain),
        int(root.findtext("vcpu") or 1), most << 10, _capacity(lib, domain), bool(domain.isActive()),
    )  # fmt: skip


def spare(lib: Any, domain: Any) -> int | None:
    """Bytes that the guest says it could do without, as of now; None when it does not say.

    QEMU asks the guest's balloon driver, which answers every period; Xen's driver has no such answer.
    """
    began = time.time()
    deadline = time.monotonic() + ANSWER
    with contextlib.suppress(lib.libvirtError):
        domain.setMemoryStatsPeriod(1, lib.VIR_DOMAIN_AFFECT_LIVE)
        while time.monotonic() < deadline:
            found = domain.memoryStats()
            # In whole seconds, of the host's clock.
            if found.get("last_update", 0) > began and "usable" in found:
                return int(found["usable"]) << 10
            time.sleep(0.2)
    return None


def crash(lib: Any, domain: Any, wanted: Crash) -> None:
    """Say what becomes of the domain when its kernel crashes."""
    action = getattr(lib, f"VIR_DOMAIN_LIFECYCLE_ACTION_{wanted.upper()}")
    domain.setLifecycleAction(lib.VIR_DOMAIN_LIFECYCLE_CRASH, action, flags(lib, domain))


def pin(lib: Any, domain: Any, cpus: Collection[int], whole: int) -> None:
    """Let each of its virtual CPUs stay on these of the host's `whole`, and QEMU's own threads with them."""
    chosen, how = tuple(n in cpus for n in range(whole)), flags(lib, domain)
    for number in range(domain.info()[3]):
        domain.pinVcpuFlags(number, chosen, how)
    if domain.connect().getType() == "QEMU":
        domain.pinEmulator(chosen, how)


def restart(lib: Any, domain: Any, xml: str, define: Callable[[str], Any]) -> None:
    """Shut the domain down and start it as another definition of the same name; its disk stays.

    The definition comes first: a domain that is off then starts as the new one, whoever starts it.
    """
    root = ElementTree.fromstring(xml)
    ElementTree.SubElement(root, "uuid").text = domain.UUIDString()
    anew = define(ElementTree.tostring(root, encoding="unicode"))
    if anew.isActive():
        _ask_to_end(lib, anew)
        deadline = time.monotonic() + PATIENCE
        while anew.isActive() and time.monotonic() < deadline:
            time.sleep(0.2)
        if anew.isActive():
            anew.destroy()
    anew.create()


def _ask_to_end(lib: Any, domain: Any) -> None:
    """Ask the guest to end by itself. Xen's kernel does so when it is told; in QEMU nobody hears ACPI's button unless
    logind runs, but systemd takes Ctrl-Alt-Del as a wish to reboot, and the domain is told to end where it would.
    """
    with contextlib.suppress(lib.libvirtError):
        domain.shutdown()
    with contextlib.suppress(lib.libvirtError):
        domain.setLifecycleAction(
            lib.VIR_DOMAIN_LIFECYCLE_REBOOT,
            lib.VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY,
            lib.VIR_DOMAIN_AFFECT_LIVE,
        )
        domain.sendKey(lib.VIR_KEYCODE_SET_LINUX, 50, CTRL_ALT_DEL, len(CTRL_ALT_DEL), 0)


def flags(lib: Any, domain: Any) -> int:
    """The running domain, its definition, or both: whichever there are."""
    live: int = lib.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    config: int = lib.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
    return live | config


def _each(lib: Any, domain: Any) -> list[int]:
    """The same one by one: libvirt's Python asks before it sets typed parameters, and may not ask for both at once."""
    both = flags(lib, domain)
    return [f for f in (lib.VIR_DOMAIN_AFFECT_LIVE, lib.VIR_DOMAIN_AFFECT_CONFIG) if both & f]


def _known(act: Callable[..., Any], *told: object) -> None:
    """libvirt's Python raises LookupError for a parameter that the driver does not know (measured, libvirt.md 2.2)."""
    try:
        act(*told)
    except LookupError as cause:
        raise WorkFailed("this host's driver has no such setting") from cause


def _cpu(lib: Any, domain: Any) -> CpuTune | Credit | None:
    try:
        kind, _ = domain.schedulerType()
        if kind.startswith("credit"):
            found = domain.schedulerParameters()
            return Credit(found["weight"], found["cap"])
        found = domain.schedulerParametersFlags(0)
        return CpuTune(found["cpu_shares"], found["global_quota"], found["global_period"])
    except (lib.libvirtError, KeyError):
        return None


def _throttle(lib: Any, domain: Any) -> Throttle | None:
    try:
        found = domain.blockIoTune(DISK, 0)
    except lib.libvirtError:
        return None
    return Throttle(found.get("total_bytes_sec", 0), found.get("total_iops_sec", 0))


def _capacity(lib: Any, domain: Any) -> int | None:
    try:
        return int(domain.blockInfo(DISK)[0])
    except lib.libvirtError:
        return None


def _define_shares(lib: Any, domain: Any, weight: int) -> None:
    flags = lib.VIR_DOMAIN_XML_INACTIVE | lib.VIR_DOMAIN_XML_SECURE
    root = ElementTree.fromstring(domain.XMLDesc(flags))
    tune = root.find("cputune")
    if tune is None:
        tune = ElementTree.SubElement(root, "cputune")
    shares = tune.find("shares")
    if shares is None:
        shares = ElementTree.SubElement(tune, "shares")
    if shares.text != str(weight):
        shares.text = str(weight)
        domain.connect().defineXML(ElementTree.tostring(root, encoding="unicode"))
