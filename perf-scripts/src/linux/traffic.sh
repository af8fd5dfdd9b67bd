# Process 1 of the domains that measure traffic: `role=driver` serves the network, `role=client` uses it,
# `role=peer` is a second client, which answers the first through the driver's bridge (`clients=2`, for both others
# too). `disk=MIB`: also a disk, in the driver's memory. `end=off`: when the client is done, so are the others.
# The same file on Tollgate and on Xen. Figures are lines `@result {json}`; `@fail TEXT` ends a domain.

clients=${clients:-1}
echo "@result {\"role\":\"$role\",\"what\":\"boot\",\"linux\":\"$(uname -r)\",\"uptime_s\":$up}"
store

frontend() { ls /sys/class/net | grep '^vif'; }
frontends() { [ "$(frontend | wc -l)" -eq "$1" ]; }

# For the driver: an interface's address or bridge, and its word to xen-netback that all is done.
serve_vif() {
    if [ "$clients" -gt 1 ]; then brctl addif br0 "$1"; else ip addr add 10.0.0.1/24 dev "$1"; fi
    ip link set "$1" up
    connected "$1" || fail "no XenStore"
}

# The device behind each disk, for xen-blkback.
serve_disks() {
    for domid in $(xenstore-list backend/vbd); do
        for number in $(xenstore-list "backend/vbd/$domid"); do
            node=backend/vbd/$domid/$number
            device=$(stat -c %t:%T "$(xenstore-read "$node/params")") || fail "no device for $node"
            xenstore-write "$node/physical-device" "$device" || fail "no XenStore"
        done
    done
}

# For the clients.
network() {
    load xen-netfront
    await 600 test -e /sys/class/net/eth0
    ip addr add "$1/24" dev eth0
    ip link set eth0 up
    await 600 ping -c 1 -W 1 10.0.0.1
}

# Serves until the client is done.
serve() {
    iperf3 -s -D
    while [ -z "$end" ]; do sleep 60; done
    nc -l -p 9 > /dev/null
}

pings() {
    times=$(ping -c 20 -i 0.05 "$2" | sed -n 's/^round-trip [^=]*= \([0-9.]*\).*/\1/p')
    echo "@result {\"role\":\"client\",\"what\":\"$1\",\"least_ms\":${times:-null}}"
}

# What dd moved, the disk's size some times over, by the clock of 10 ms, since Debian's busybox has dd tell no time.
passes=6
moved() {
    what=$1
    shift
    read -r since rest < /proc/uptime
    for pass in $(seq "$passes"); do
        dd bs=1M "$@" 2> /tmp/answer || fail "$what: $(cat /tmp/answer)"
    done
    read -r until rest < /proc/uptime
    awk -v what="$what" -v mib="$((disk * passes))" -v took="$since $until" 'BEGIN {
        split(took, at, " ")
        seconds = at[2] - at[1]
        if (seconds < 0.01) seconds = 0.01
        printf "@result {\"role\":\"client\",\"what\":\"%s\",\"seconds\":%.2f,\"bits_per_second\":%.0f}\n",
            what, seconds, 8 * 1048576 * mib / seconds
    }'
}

# Frames that have crossed the ring.
crossed() {
    read -r in < /sys/class/net/eth0/statistics/rx_packets
    read -r out < /sys/class/net/eth0/statistics/tx_packets
    echo $((in + out))
}

# What iperf3's server received, and the frames that crossed the ring for it. `mark` is seen by who counts.
measure() {
    what=$1
    shift
    before=$(crossed)
    mark
    iperf3 -c "$server" -t "${seconds:-1}" -J "$@" > /tmp/answer || fail "iperf3 $what: $(grep error /tmp/answer)"
    mark
    frames=$(($(crossed) - before))
    figures=$(awk -F '[:,]' '
        /"sum_received"/ { inside = 1 }
        inside && /"(seconds|bytes|bits_per_second|packets|lost_packets)"/ {
            gsub(/[ \t"]/, "", $1); gsub(/[ \t]/, "", $2); printf ",\"%s\":%s", $1, $2
        }
        inside && /}/ { exit }' /tmp/answer)
    [ -n "$figures" ] || fail "iperf3 $what says nothing"
    echo "@result {\"role\":\"client\",\"what\":\"$what\",\"frames\":$frames$figures}"
}

server=10.0.0.1
case $role in
driver)
    load xen-netback
    if [ -n "$disk" ]; then
        insmod /modules/brd.ko rd_nr=1 rd_size=$((disk * 1024)) || fail "no brd"
        load xen-blkback
    fi
    if [ "$clients" -gt 1 ]; then
        load llc stp bridge
        brctl addbr br0
        ip addr add 10.0.0.1/24 dev br0
        ip link set br0 up
    fi
    echo "@ready driver"
    await 1200 frontends "$clients"
    for vif in $(frontend); do serve_vif "$vif"; done
    [ -z "$disk" ] || serve_disks
    serve
    await 600 frontends 0
    echo "@result {\"role\":\"driver\",\"what\":\"end\"}"
    poweroff -f
    ;;
peer)
    network 10.0.0.3
    serve
    echo "@result {\"role\":\"peer\",\"what\":\"end\",\"frames\":$(crossed)}"
    poweroff -f
    ;;
client)
    network 10.0.0.2
    pings ping 10.0.0.1
    measure tcp_from_client
    measure tcp_to_client -R
    measure udp_64_from_client -u -b 0 -l 64
    measure udp_64_to_client -u -b 0 -l 64 -R
    measure udp_1400_from_client -u -b 0 -l 1400
    measure udp_1400_to_client -u -b 0 -l 1400 -R
    if [ "$clients" -gt 1 ]; then
        server=10.0.0.3
        await 600 ping -c 1 -W 1 $server
        pings ping_peer $server
        measure tcp_to_peer
        measure tcp_from_peer -R
    fi
    if [ -n "$disk" ]; then
        load xen-blkfront
        await 600 test -b /dev/xvda
        dd if=/dev/urandom of=/tmp/data bs=1M count="$disk" 2> /dev/null
        moved disk_write if=/tmp/data of=/dev/xvda oflag=direct
        moved disk_read if=/dev/xvda of=/tmp/back iflag=direct
        cmp /tmp/data /tmp/back || fail "the disk gives back something else"
    fi
    if [ -n "$end" ]; then
        [ "$clients" -eq 1 ] || echo | nc 10.0.0.3 9
        echo | nc 10.0.0.1 9
    fi
    echo "@result {\"role\":\"client\",\"what\":\"end\",\"frames\":$(crossed),\"ok\":true}"
    poweroff -f
    ;;
*) fail "role=driver, role=client or role=peer is missing" ;;
esac
