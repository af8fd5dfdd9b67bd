#!/usr/bin/env bash
# Records benches/traces/mixed.pcap: real traffic between two network namespaces joined by a veth pair.
#   small  - request/response over one TCP connection, bodies of 1 to 600 bytes (HTTP-like)
#   bulk   - one iperf3 TCP stream with segmentation offload, so frames up to 64 KiB as netback sees them
#   udp    - 64-byte and 1442-byte frames
#   mtu    - the bulk stream again with offloads off: 1514-byte frames
# Needs root, iproute2, tcpdump, iperf3, ethtool, python3. Touches nothing outside the namespaces it makes.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-mixed.pcap}
a=tgtrace-a-$$ b=tgtrace-b-$$
pids=()
cleanup() {
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
}
trap cleanup EXIT

ip netns add "$a"
ip netns add "$b"
ip link add va netns "$a" type veth peer name vb netns "$b"
for side in "$a va 1" "$b vb 2"; do
    read -r ns dev n <<<"$side"
    ip -n "$ns" link set "$dev" address "02:00:00:00:00:0$n"
    ip -n "$ns" addr add "10.99.0.$n/24" dev "$dev"
    ip -n "$ns" link set lo up
    ip -n "$ns" link set "$dev" up
done
in_a() { ip netns exec "$a" "$@"; }
in_b() { ip netns exec "$b" "$@"; }

in_b tcpdump -i vb -w "$out" -s 0 --immediate-mode -U -q 'not ip6' 2>/dev/null &
pids+=($!)
in_b iperf3 -s >/dev/null &
pids+=($!)
in_b python3 - <<'PY' &
import socket
s = socket.create_server(("10.99.0.2", 8080))
c, _ = s.accept()
while (head := c.recv(4)):
    want = int.from_bytes(head, "big")
    while want > 0:
        want -= len(c.recv(want))
    c.sendall(head + b"reply" * (int.from_bytes(head, "big") % 97))
PY
pids+=($!)
sleep 1

in_a python3 - <<'PY'
import random, socket
random.seed(226)
c = socket.create_connection(("10.99.0.2", 8080))
for _ in range(150):
    n = random.randint(1, 600)
    c.sendall(n.to_bytes(4, "big") + random.randbytes(n))
    want = 4 + 5 * (n % 97)
    while want > 0:
        want -= len(c.recv(want))
PY
in_a iperf3 -c 10.99.0.2 -n 700K >/dev/null
in_a iperf3 -c 10.99.0.2 -u -b 2M -l 22 -n 3K >/dev/null
in_a iperf3 -c 10.99.0.2 -u -b 20M -l 1400 -n 70K >/dev/null
in_a ethtool -K va tso off gso off >/dev/null
in_b ethtool -K vb gro off >/dev/null
in_a iperf3 -c 10.99.0.2 -n 200K >/dev/null
sleep 1
kill "${pids[0]}"
wait "${pids[0]}" || true
ls -l "$out"
