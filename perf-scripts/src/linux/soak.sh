# Process 1 of domains under mixed traffic for `seconds=`: `role=driver` serves network and a disk, `role=peer`
# answers the client beyond the bridge, `role=client` does everything in rounds - pings none of which may be lost, TCP
# both ways and a disk whose data must come back, UDP as fast as it goes, of which some may be lost. `@round N` after
# each; `@done` at the end, and then silence until `off` is typed at the driver. `@fail TEXT` ends a domain.

# For the clients.
network() {
    load xen-netfront
    await 1200 test -e /sys/class/net/eth0
    ip addr add "$1/24" dev eth0
    ip link set eth0 up
}

answer() {
    nc -ll -p 9 -e /bin/cat &
    iperf3 -s -D
}

store

case $role in
driver)
    load xen-netback brd xen-blkback llc stp bridge
    brctl addbr br0
    ip addr add 10.0.0.1/24 dev br0
    ip link set br0 up
    answer
    echo "@ready driver"
    vifs() { [ "$(ls /sys/class/net | grep -c '^vif')" -eq 2 ]; }
    await 1200 vifs
    for vif in $(ls /sys/class/net | grep '^vif'); do
        brctl addif br0 "$vif"
        ip link set "$vif" up
        connected "$vif" || fail "no XenStore"
    done
    for domid in $(xenstore-list backend/vbd); do
        for number in $(xenstore-list "backend/vbd/$domid"); do
            node=backend/vbd/$domid/$number
            device=$(stat -c %t:%T "$(xenstore-read "$node/params")") || fail "no device for $node"
            xenstore-write "$node/physical-device" "$device" || fail "no XenStore"
        done
    done
    until read -r order && [ "$order" = off ]; do :; done < /dev/hvc0
    poweroff -f
    ;;
peer)
    network 10.0.0.3
    answer
    while [ -e /sys/class/net/eth0 ]; do sleep 1; done
    poweroff -f
    ;;
client) ;;
*) fail "role=driver, role=peer or role=client is missing" ;;
esac

transfer() {
    nc "$1" 9 < /tmp/data > /tmp/back || fail "no connection to $1"
    cmp -s /tmp/data /tmp/back || fail "$1 gives back something else"
    bytes=$((bytes + 2 * size))
}

# Not faster: behind a domain that the host keeps from running for a while more pings would wait than the driver's
# interfaces queue (32), and Linux would drop them.
pings() {
    ping -c 30 -i 0.1 -W 20 "$1" > /tmp/answer || fail "ping $1: $(tail -n 2 /tmp/answer)"
    answers=$(grep -c ' bytes from ' /tmp/answer)
    [ "$answers" -eq 30 ] ||
        fail "ping $1: $answers of 30 answers; dropped: $(cat /sys/class/net/eth0/statistics/*dropped | tr '\n' ' ')"
}

udp() {
    iperf3 -c "$1" -u -b 0 -t 1 -J -l "$2" $3 > /tmp/answer || fail "iperf3 $1: $(grep error /tmp/answer)"
}

tcp() {
    iperf3 -c "$1" -t 1 -J $2 > /tmp/answer || fail "iperf3 $1: $(grep error /tmp/answer)"
}

disk() {
    dd if=/tmp/data of=/dev/xvda bs=1M oflag=direct 2> /dev/null || fail "the disk cannot be written"
    dd if=/dev/xvda of=/tmp/back bs=1M count=4 iflag=direct 2> /dev/null || fail "the disk cannot be read"
    cmp -s /tmp/data /tmp/back || fail "the disk gives back something else"
    bytes=$((bytes + 2 * size))
}

network 10.0.0.2
load xen-blkfront
await 1200 test -b /dev/xvda
for address in 10.0.0.1 10.0.0.3; do await 1200 ping -c 1 -W 1 $address; done
size=$((4 * 1048576))
bytes=0
round=0
read -r begin rest < /proc/uptime
while read -r now rest < /proc/uptime && [ $((${now%.*} - ${begin%.*})) -lt "$seconds" ]; do
    dd if=/dev/urandom of=/tmp/data bs=1M count=4 2> /dev/null
    for address in 10.0.0.1 10.0.0.3; do
        transfer $address
        pings $address
        udp $address 64
        udp $address 1400 -R
        tcp $address
        tcp $address -R
    done
    disk
    round=$((round + 1))
    echo "@round $round, $((bytes / 1048576)) MiB compared"
done
echo "@done after $round rounds"
while [ -e /sys/class/net/eth0 ]; do sleep 1; done
poweroff -f
