"""Shares of an uplink are the same for the same guests, and what tc tells is read as what was set."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.document import check, parse
from builder.errors import CommandFailed, InputError, NoRoom, WorkFailed
from cluster import deploy, draft, network
from cluster.hosts import policy, uplink
from cluster.hosts.policy import Uplink
from cluster.hosts.uplink import Held, Share
from cluster.ledger import ClusterRow, Ledger
from cluster.plan import guarantee
from cluster.spec import ClusterSpec
from tests.invented import CLUSTER, LAB, SECRET, drawn

LINE = Uplink("up0", 50_000_000)
A = Share("52:54:00:00:00:01", 30_000_000, 50_000_000)
B = Share("52:54:00:00:00:02", 10_000_000, 90_000_000)
SAID = """\
[{"ifname":"up0","flags":["BROADCAST","UP","LOWER_UP"],"master":"phxb1"}]
class htb 1:11 parent 1:1 leaf 11: prio 0 rate 10Mbit ceil 50Mbit burst 1600b cburst 1600b 
class htb 1:1 root rate 50Mbit ceil 50Mbit burst 1600b cburst 1600b 
class htb 1:10 parent 1:1 leaf 10: prio 0 rate 30Mbit ceil 50Mbit burst 1593b cburst 1600b 
class htb 1:2 parent 1:1 prio 0 rate 500Kbit ceil 50Mbit burst 1600b cburst 1600b 
filter protocol all pref 1 u32 chain 0 
filter protocol all pref 1 u32 chain 0 fh 800: ht divisor 1 
filter protocol all pref 1 u32 chain 0 fh 800::10 order 16 key ht 800 bkt 0 *flowid 1:10 not_in_hw 
  match 52540000/ffffffff at -8
  match 00010000/ffff0000 at -4
filter protocol all pref 1 u32 chain 0 fh 800::11 order 17 key ht 800 bkt 0 *flowid 1:11 not_in_hw 
  match 52540000/ffffffff at -8
  match 00020000/ffff0000 at -4
"""
"""Of iproute2 6.1, as it was written."""


def test_what_tc_tells_is_what_was_set():
    assert uplink.held(SAID) == uplink.wanted(LINE, "phxb1", [B, A])


@pytest.mark.parametrize(
    ("one", "other"),
    [("rate 30Mbit", "rate 3Mbit"), ("match 00010000", "match 00090000"), ("phxb1", "docker0"), ('"UP",', ""),
     ("class htb 1:1 root rate 50Mbit", "class htb 1:1 root rate 5Mbit"), ("*flowid 1:11", "*flowid 1:10")],
)  # fmt: skip
def test_what_was_changed_is_another(one, other):
    assert one in SAID
    assert uplink.held(SAID.replace(one, other)) != uplink.wanted(LINE, "phxb1", [A, B])


@given(st.permutations([A, B, Share("52:54:00:00:00:03", 1_000_000, 2_000_000)]))
def test_the_order_of_guests_never_matters(guests):
    assert uplink.batch(LINE, guests, Held()) == uplink.batch(LINE, sorted(guests), Held())
    assert uplink.wanted(LINE, "b", guests) == uplink.wanted(LINE, "b", sorted(guests))


def test_who_leaves_takes_its_class_along_and_the_queue_stays():
    said = uplink.batch(LINE, [A], uplink.held(SAID)).splitlines()
    assert "class del dev up0 classid 1:11" in said
    assert said[0] == "filter del dev up0 parent 1: protocol all prio 1"
    assert not [line for line in said if "root" in line], "packets that wait are not lost"
    assert "rate 30000000bit ceil 50000000bit" in next(s for s in said if "classid 1:10" in s)


@given(st.integers(1, 10**10))
def test_a_class_borrows_at_least_a_frame_and_no_more_than_htb_wants(rate):
    assert 1514 <= uplink._quantum(rate) <= 200_000


def test_a_device_as_people_write_it():
    assert policy.uplink("vxlan7:200Mbit") == Uplink("vxlan7", 200_000_000)
    for wrong in ("eth1", ":1Gbit", "a b:1Gbit", "x" * 16 + ":1Gbit", "eth1:fast"):
        with pytest.raises(ValueError, match="is not"):
            policy.uplink(wrong)


def asked(site, text):
    document = parse(text, "demo.yaml")
    spec = check(document, ClusterSpec)
    promises = {node: guarantee(spec.roles[role]) for node, role in spec.names}
    return draft._uplink(site, spec, document, LAB, promises)


def test_admission(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.put_host(LAB)
    used = []
    site = SimpleNamespace(ledger=ledger, uses_uplink=lambda _: used)
    text = f"uplink: true\n{CLUSTER}"
    with pytest.raises(InputError, match="host 'lab' lends no uplink"):
        asked(site, text)
    ledger.put_uplink("lab", Uplink("up0", 61_000_000))
    assert asked(site, text) == Uplink("up0", 61_000_000), "three nodes of 20Mbit"
    ledger.put_uplink("lab", Uplink("up0", 60_000_000))
    with pytest.raises(NoRoom, match="are 60Mbit together") as caught:
        asked(site, text)
    assert "can promise 59400kbit" in caught.value.hint
    used.append("other")
    with pytest.raises(InputError, match="is used by other"):
        asked(site, text)
    ledger.put_uplink("lab", None)
    assert ledger.uplink("lab") is None
    ledger.put_uplink("lab", LINE)
    ledger.drop_host("lab")
    assert ledger.uplink("lab") is None
    ledger.close()


def test_a_site_knows_who_uses_it(tmp_path):
    from cluster.site import Site

    site = Site(tmp_path)
    for name, spec in (("one", '{"uplink": true}'), ("two", "{}")):
        site.ledger.open_cluster(ClusterRow(name, "lab", "10.7.0.0/24", spec, SECRET, "now"), [])
    assert site.uses_uplink("lab") == ["one"] and site.uses_uplink("elsewhere") == []
    site.ledger.close()


def test_each_node_has_its_share():
    plan = replace(drawn(), uplink=LINE)
    assert [(s.mac, s.guarantee, s.limit) for s in deploy.shares(plan)] == [
        (n.machine.mac, 20_000_000, 100_000_000) for n in plan.nodes
    ]
    assert not deploy.lead_out(drawn(), None), "a closed network asks no host"


def test_a_device_that_is_not_there_is_named():
    def run(*_, **__):
        raise CommandFailed(["sh"], 3, "")

    reach = SimpleNamespace(run=run, host=LAB)
    with pytest.raises(WorkFailed, match="host 'lab' has no network device up0"):
        uplink.ensure(reach, LINE, "phxb1", [A])
    uplink.release(reach, "up0", "phxb1")


def test_a_file_that_says_so_no_longer_lets_the_uplink_go(monkeypatch):
    gone = []
    monkeypatch.setattr(uplink, "release", lambda _, device, bridge: gone.append((device, bridge)))
    deploy.close(replace(drawn(), uplink=LINE), None, LINE)
    deploy.close(drawn(), None, None)
    assert gone == []
    deploy.close(drawn(), None, LINE)
    assert gone == [("up0", network.bridge("demo"))]
