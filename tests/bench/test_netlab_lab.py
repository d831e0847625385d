"""Real hosts, a real router, real packets. Bounds are wide: the machine may be busy."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.netlab.engine import CGROUPS, Engine
from bench.netlab.errors import CommandFailed, LabFailed, NotRoot, RouterRefused, UnknownHost
from bench.netlab.hosts import Host
from bench.netlab.lab import FOLDER_PREFIX, Lab, open_lab
from bench.netlab.leftovers import clean
from bench.netlab.plan import make_plan
from bench.netlab.processes import ProcessId, children
from bench.netlab.testing import MakeLab

pytestmark = [pytest.mark.netns, pytest.mark.slow]

LATE_S = 0.05
"""How much later than planned a packet may come on a busy machine."""


def rtts(host: Host, target: str, count: int = 10) -> list[float]:
    """Return the round trips that were answered, in seconds."""
    command = ["ping", "-n", "-c", str(count), "-i", "0.02", "-W", "1", target]
    lines = host.run(command, check=False).stdout.splitlines()
    return [
        float(line.partition("time=")[2].split()[0]) / 1000 for line in lines if "time=" in line
    ]


def within(seconds: float, condition: Callable[[], bool], what: str) -> None:
    """Return when `condition` holds; what it looks at tells nobody that it changed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def server(host: Host, port: int) -> socket.socket:
    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", port))

    sock = host.inside(listen)
    sock.settimeout(10)
    return sock


def connect(host: Host, address: str, port: int, timeout_s: float = 5) -> socket.socket:
    return host.inside(lambda: socket.create_connection((address, port), timeout=timeout_s))


def tcp(host: Host, port: int) -> socket.socket:
    def bind() -> socket.socket:
        sock = socket.socket()
        sock.bind(("0.0.0.0", port))
        return sock

    sock = host.inside(bind)
    sock.settimeout(10)
    return sock


def udp(host: Host, port: int) -> socket.socket:
    def bind() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", port))
        return sock

    sock = host.inside(bind)
    sock.settimeout(0.5)
    return sock


def test_pings_take_what_the_matrix_says(lab: MakeLab) -> None:
    made = lab(
        hosts=3,
        links=[
            {"between": ["h1", "h2"], "delay_ms": 50},
            {"from": "h1", "to": "h3", "delay_ms": 30},
        ],
    )
    h1, h2, h3 = made.hosts
    for host, target, planned in ((h1, h2, 0.1), (h2, h1, 0.1), (h3, h1, 0.03), (h2, h3, 0.0)):
        found = rtts(host, target.ip)
        assert len(found) == 10
        assert planned <= min(found) < planned + LATE_S


def test_a_link_is_changed_while_packets_flow(lab: MakeLab) -> None:
    made = lab(hosts=2)
    h1, h2 = made.hosts
    made.link(h1, h2).set(delay_s=0.2)
    assert min(rtts(h1, h2.ip)) >= 0.4
    made.link(h1, h2).set(delay_s=0.0, one_way=True)
    assert 0.2 <= min(rtts(h1, h2.ip)) < 0.2 + LATE_S
    assert made.link(h2, h1).properties().delay_s == 0.2


def test_packets_are_lost_in_the_share_that_is_said(lab: MakeLab) -> None:
    made = lab(hosts=2, seed=4)
    h1, h2 = made.hosts
    made.link(h1, h2).set(loss=0.3, one_way=True)
    h1.run(["ping", "-n", "-q", "-c", "400", "-i", "0.002", "-W", "1", h2.ip], check=False)
    there, back = made.link(h1, h2).counters(), made.link(h2, h1).counters()
    assert there.packets + there.lost >= 400
    assert 0.2 < there.lost / (there.packets + there.lost) < 0.4
    assert back.lost == 0
    assert back.packets >= 400 - there.lost


def test_a_cut_link_carries_nothing_until_it_is_healed(lab: MakeLab) -> None:
    made = lab(hosts=3)
    h1, h2, h3 = made.hosts
    made.cut(h1, h2)
    assert rtts(h1, h2.ip, 2) == []
    assert len(rtts(h1, h3.ip, 2)) == 2
    assert made.link(h1, h2).counters().cut == 2
    made.heal(h1, h2)
    assert len(rtts(h1, h2.ip, 2)) == 2


def test_a_tcp_connection_outlives_a_short_cut(lab: MakeLab) -> None:
    made = lab(hosts=2)
    h1, h2 = made.hosts
    with server(h2, 80) as listening, connect(h1, h2.ip, 80) as near, listening.accept()[0] as far:
        far.settimeout(0.1)
        made.cut_host(h2)
        near.sendall(b"hello")
        with pytest.raises(TimeoutError):
            far.recv(10)
        made.heal(h2)
        far.settimeout(10)
        assert far.recv(10) == b"hello"


def test_a_host_whose_cable_is_pulled_is_away_from_all_and_itself_goes_on(lab: MakeLab) -> None:
    made = lab(hosts=3)
    h1, h2, h3 = made.hosts
    made.cut_host(h1)
    assert rtts(h1, h2.ip, 2) == rtts(h3, h1.ip, 2) == []
    assert len(rtts(h1, "127.0.0.1", 2)) == len(rtts(h2, h3.ip, 2)) == 2
    made.heal()
    assert len(rtts(h3, h1.ip, 2)) == 2


def test_a_partition_separates_its_sides_and_nobody_within_one(lab: MakeLab) -> None:
    made = lab(hosts=4)
    h1, h2, h3, h4 = made.hosts
    made.partition([h1, h2], ["h3", "h4"])
    assert rtts(h1, h3.ip, 2) == rtts(h4, h2.ip, 2) == []
    assert len(rtts(h1, h2.ip, 2)) == len(rtts(h3, h4.ip, 2)) == 2


def test_bandwidth_is_a_cap(lab: MakeLab) -> None:
    made = lab(hosts=2)
    h1, h2 = made.hosts
    made.link(h1, h2).set(bandwidth_bps=16e6)
    size = 4_000_000
    with server(h2, 80) as listening, connect(h1, h2.ip, 80) as near, listening.accept()[0] as far:
        near.settimeout(30)
        sender = threading.Thread(target=near.sendall, args=(bytes(size),))
        sender.start()
        began, received = time.monotonic(), 0
        while received < size:
            received += len(far.recv(1 << 20))
        took = time.monotonic() - began
        sender.join()
    assert 2.0 <= took < 16.0, "4 MB at 2 MB/s, and headers; a bit is no byte"


def test_the_queue_before_a_slow_line_is_bounded(lab: MakeLab) -> None:
    made = lab(hosts=2)
    h1, h2 = made.hosts
    made.link(h1, h2).set(bandwidth_bps=1e6)
    with udp(h1, 4000) as near, udp(h2, 4000):
        for _ in range(200):
            near.sendto(bytes(1000), (h2.ip, 4000))
    within(30, lambda: sum(_fates(made, "h1", "h2")) == 200, "each has departed or was dropped")
    packets, overflowed = _fates(made, "h1", "h2")
    assert 10 <= packets < 40
    assert overflowed == 200 - packets


def _fates(made: Lab, source: str, target: str) -> tuple[int, int]:
    counters = made.link(source, target).counters()
    return counters.packets, counters.overflowed


def test_a_packet_is_no_larger_than_on_ethernet_where_nothing_else_is_said(lab: MakeLab) -> None:
    h1, h2 = lab(hosts=2).hosts
    fits = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s"]
    assert h1.run([*fits, "1472", h2.ip]).returncode == 0
    assert h1.run([*fits, "1473", h2.ip], check=False).returncode != 0


def test_a_natted_host_dials_out_and_cannot_be_dialled(lab: MakeLab) -> None:
    made = lab(hosts=[{"name": "inside", "nat": "cone"}, {"name": "outside"}])
    inside, outside = made.hosts
    assert inside.ip != inside.address
    with (
        server(outside, 80) as listening,
        connect(inside, outside.ip, 80) as near,
        listening.accept()[0] as far,
    ):
        assert far.getpeername()[0] == inside.address
        far.sendall(b"hello")
        assert near.recv(10) == b"hello"
    with server(inside, 80), pytest.raises(TimeoutError):
        connect(outside, inside.address, 80, timeout_s=1)
    assert rtts(outside, inside.address, 2) == []


def _punch(one: Host, other: Host) -> bool:
    """Let two hosts send to each other's outside address, as peers do that were told of it."""
    with udp(one, 4000) as near, udp(other, 4000) as far:
        near.sendto(b"opens the way back", (other.address, 4000))
        with pytest.raises(TimeoutError):
            far.recv(100)
        far.sendto(b"there", (one.address, 4000))
        try:
            answered = near.recv(100) == b"there"
            near.sendto(b"and back", (other.address, 4000))
            return answered and far.recv(100) == b"and back"
        except TimeoutError:
            return False


def test_two_hosts_behind_home_routers_can_punch_a_hole(lab: MakeLab) -> None:
    one, other = lab(hosts=[{"name": "a", "nat": "cone"}, {"name": "b", "nat": "cone"}]).hosts
    assert _punch(one, other)


def test_a_hole_can_be_punched_for_tcp_by_connecting_from_both_sides(lab: MakeLab) -> None:
    hosts = [{"name": "a", "nat": "cone"}, {"name": "b", "nat": "cone"}]
    one, other = lab(hosts=hosts, default={"delay_ms": 20}).hosts
    with tcp(one, 4000) as near, tcp(other, 4000) as far:
        dialling = threading.Thread(target=near.connect, args=((other.address, 4000),))
        dialling.start()
        far.connect((one.address, 4000))
        dialling.join()
        near.sendall(b"hello")
        assert far.recv(10) == b"hello"


def test_a_symmetric_nat_defeats_hole_punching(lab: MakeLab) -> None:
    one, other = lab(hosts=[{"name": "a", "nat": "cone"}, {"name": "b", "nat": "symmetric"}]).hosts
    assert not _punch(one, other)


def test_hosts_have_names_of_their_own_and_know_each_other(lab: MakeLab) -> None:
    h1, h2 = lab(hosts=2).hosts
    assert h1.run(["hostname"]).stdout == "h1\n"
    assert h2.ip in h1.run(["getent", "ahostsv4", "h2"]).stdout
    assert socket.gethostname() != "h1"


def test_a_host_sees_its_own_processes_only(lab: MakeLab) -> None:
    h1, h2 = lab(hosts=2).hosts
    h2.popen(["sleep", "60"])
    assert "sleep" not in h1.run(["ps", "-e"]).stdout
    assert "sleep" in h2.run(["ps", "-e"]).stdout


def test_a_reboot_ends_everything_without_a_word_and_the_host_comes_back(lab: MakeLab) -> None:
    made = lab(hosts=2)
    h1, h2 = made.hosts
    (h2.folder / "kept").write_text("on disk")
    sleeping = h2.popen(["sh", "-c", "sleep 60 & sleep 60"])
    with server(h2, 80) as listening, connect(h1, h2.ip, 80) as near, listening.accept()[0]:
        before = made.link(h2, h1).counters()
        h2.reboot()
        assert sleeping.wait(0) == -signal.SIGKILL
        assert made.link(h2, h1).counters() == before, "no FIN or RST came"
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(1)
    assert "sleep" not in h2.run(["ps", "-e"]).stdout
    assert len(rtts(h1, h2.ip, 2)) == 2
    assert (h2.folder / "kept").read_text() == "on disk"


def test_a_host_that_is_off_says_so(lab: MakeLab) -> None:
    h1, h2 = lab(hosts=2).hosts
    h2.power_off()
    assert not h2.is_on
    with pytest.raises(LabFailed, match="h2 is off"):
        h2.run(["true"])
    assert rtts(h1, h2.ip, 1) == []
    h2.power_on()
    h2.run(["true"])


def test_a_reboot_keeps_links_and_cuts(lab: MakeLab) -> None:
    made = lab(hosts=2, default={"delay_ms": 40})
    h1, h2 = made.hosts
    made.cut_host(h2)
    h2.reboot()
    assert rtts(h1, h2.ip, 2) == []
    made.heal(h2)
    assert min(rtts(h1, h2.ip, 2)) >= 0.08


def test_a_natted_host_comes_back_with_its_router(lab: MakeLab) -> None:
    made = lab(hosts=[{"name": "inside", "nat": "cone"}, {"name": "outside"}])
    inside, outside = made.hosts
    inside.reboot()
    assert len(rtts(inside, outside.ip, 2)) == 2


def test_what_fails_on_a_host_is_said_with_its_output(lab: MakeLab) -> None:
    (h1,) = lab(hosts=1).hosts
    with pytest.raises(CommandFailed, match="on h1 ended with 3:\nwhy"):
        h1.run(["sh", "-c", "echo why; exit 3"])
    with pytest.raises(CommandFailed, match="has no end in"):
        h1.run(["sleep", "60"], timeout_s=0.1)
    with pytest.raises(FileNotFoundError):
        h1.run(["no-such-command"])


def test_a_daemon_is_started_when_it_says_that_it_is_ready(lab: MakeLab) -> None:
    (h1,) = lab(hosts=1).hosts
    notify = (
        "import os, socket, time; print('here', flush=True);"
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)"
        ".sendto(b'READY=1', os.environ['NOTIFY_SOCKET']); time.sleep(60)"
    )
    daemon = h1.start([sys.executable, "-c", notify])
    assert daemon.printed() == "here\n"
    assert daemon.process.poll() is None
    with pytest.raises(CommandFailed, match="did not get ready:\nno"):
        h1.start(["sh", "-c", "echo no; exit 1"])


def test_hosts_keep_their_own_state(lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_PSK", "of this machine")
    h1, h2 = lab(hosts=2).hosts
    assert "MYXO_PSK" not in h1.environment
    assert h1.environment["MYXO_STATE_DIR"] != h2.environment["MYXO_STATE_DIR"]


def test_unknown_hosts_and_impossible_links_are_refused(lab: MakeLab) -> None:
    made = lab(hosts=2)
    with pytest.raises(UnknownHost, match="no host 'h3'; it has h1, h2"):
        made.cut_host("h3")
    with pytest.raises(UnknownHost, match="to itself"):
        made.link("h1", "h1")
    with pytest.raises(RouterRefused, match="loss must be"):
        made.link("h1", "h2").set(loss=7)


def test_a_lab_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotRoot, match="sudo"), open_lab(make_plan(hosts=1)):
        pass


def _processes(lab: Lab) -> list[ProcessId]:
    holders = [namespaces.holder for host in lab.hosts for namespaces in host.held]
    first = [ProcessId.of(pid) for holder in holders for pid in children(holder.pid)]
    return [*holders, *first, ProcessId(lab.status()["router"]["pid"], 0)]


def test_a_lab_leaves_nothing(lab: MakeLab) -> None:
    with open_lab(make_plan(hosts=[{"name": "a"}, {"name": "b", "nat": "cone"}])) as made:
        made.hosts[0].popen(["sleep", "60"])
        held = _processes(made)
        assert all(process.alive for process in held[:-1])
    assert not any(process.alive for process in held[:-1])
    assert not Path(f"/proc/{held[-1].pid}").exists()
    assert not made.folder.exists()


_OWNER = """
import sys, time
from bench.netlab.lab import open_lab
from bench.netlab.plan import make_plan
with open_lab(make_plan(hosts=[{"name": "a"}, {"name": "b", "nat": "cone"}])) as lab:
    sleeping = lab.hosts[0].popen(["sleep", "1000"])
    print(lab.folder, sleeping.pid, lab.status()["router"]["pid"],
          *(n.holder.pid for h in lab.hosts for n in h.held), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("victim", ["owner", "router"])
def test_a_kill_leaves_a_folder_and_clean_removes_it(victim: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            folder, *pids = owner.stdout.readline().decode().split()
            sleeping, router, *holders = (ProcessId.of(int(pid)) for pid in pids)
            assert all(process.alive for process in (sleeping, router, *holders))
            assert folder not in clean(), "a lab that is up is left alone"
            os.kill(owner.pid if victim == "owner" else router.pid, signal.SIGKILL)
            within(30, lambda: not sleeping.alive, "the hosts have ended")
        finally:
            owner.kill()
    # The last ends when the system's first process has reaped the others.
    within(20, lambda: not any(p.alive for p in (router, *holders)), "everything has ended")
    assert folder in clean()
    assert not Path(folder).exists()


def test_clean_spares_the_folder_of_a_lab_in_the_making() -> None:
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True) as folder:
        assert folder not in clean()
        os.utime(folder, (0, 0))
        assert folder in clean()


needs_engine = pytest.mark.skipif(
    shutil.which("dockerd") is None, reason="dockerd is not installed"
)


@needs_engine
def test_each_host_can_have_an_engine_of_its_own(lab: MakeLab, tmp_path: Path) -> None:
    made = lab(hosts=[{"name": n, "engine": True} for n in ("a", "b")] + [{"name": "c"}])
    a, b, c = made.hosts
    root = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", "/bin", "-cf", root, "busybox"], check=True)
    a.run(["docker", "import", str(root), "busybox"])
    serve = "echo hello > index.html; exec /busybox httpd -f -p 80"
    run = ["docker", "run", "-d", "--name", "web", "-p", "8080:80", "-m", "64m", "busybox"]
    a.run([*run, "/busybox", "sh", "-c", serve.replace("echo", "/busybox echo")])
    try:
        got = c.run(["curl", "-sS", "--retry", "5", "--retry-connrefused", f"http://{a.ip}:8080/"])
        assert got.stdout == "hello\n"
        assert "web" not in b.run(["docker", "ps", "-a"]).stdout
        a.reboot()
        assert "busybox" in a.run(["docker", "images"]).stdout, "images outlive a reboot"
        assert "Exited" in a.run(["docker", "ps", "-a"]).stdout, "containers do not"
        a.run(["docker", "start", "web"])
        c.run(["curl", "-sS", "--retry", "5", "--retry-connrefused", f"http://{a.ip}:8080/"])
    finally:
        a.power_off()
    assert list(CGROUPS.glob(f"*/{Engine(a.folder / 'engine').cgroup}")) == []


@needs_engine
def test_a_host_with_a_paused_container_can_be_switched_off(lab: MakeLab, tmp_path: Path) -> None:
    (host,) = lab(hosts=[{"name": "a", "engine": True}]).hosts
    root = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", "/bin", "-cf", root, "busybox"], check=True)
    host.run(["docker", "import", str(root), "busybox"])
    host.run(["docker", "run", "-d", "--name", "paused", "busybox", "/busybox", "sleep", "1000"])
    host.run(["docker", "pause", "paused"])
    holder = host.held[0].holder
    host.power_off()
    assert not holder.alive
    assert list(CGROUPS.glob(f"*/{Engine(host.folder / 'engine').cgroup}")) == []
