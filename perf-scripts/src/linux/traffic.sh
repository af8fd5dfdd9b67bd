#!/bin/busybox sh
# Process 1 of the domains that measure traffic: `role=driver` serves the network, `role=client` uses it.
# The same file on Tollgate and on Xen. Figures are lines `@result {json}`; `@fail TEXT` ends a domain.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
read -r up idle < /proc/uptime

fail() {
    echo "@fail $*"
    poweroff -f
}

# Waits at most $1 tenths of a second until the rest of the words succeed.
await() {
    left=$1
    shift
    until "$@" > /dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "waited in vain: $*"
        sleep 0.1
    done
}

for word in $(cat /proc/cmdline); do
    case $word in role=*) role=${word#role=} ;; seconds=*) seconds=${word#seconds=} ;; esac
done
echo "@result {\"role\":\"$role\",\"what\":\"boot\",\"linux\":\"$(uname -r)\",\"uptime_s\":$up}"
for module in xen-evtchn xen-privcmd xenfs; do
    insmod /modules/$module.ko || fail "no $module"
done
mount -t xenfs xenfs /proc/xen
ifconfig lo up

frontend() { ls /sys/class/net | grep '^vif'; }
sum() { echo $(($(cat /sys/class/net/eth0/statistics/rx_packets) + $(cat /sys/class/net/eth0/statistics/tx_packets))); }

# What iperf3's server received, and the frames that crossed the ring for it.
measure() {
    what=$1
    shift
    before=$(sum)
    iperf3 -c 10.0.0.1 -t "${seconds:-1}" -J "$@" > /tmp/answer || fail "iperf3 $what: $(grep error /tmp/answer)"
    frames=$(($(sum) - before))
    figures=$(awk -F '[:,]' '
        /"sum_received"/ { inside = 1 }
        inside && /"(seconds|bytes|bits_per_second|packets|lost_packets)"/ {
            gsub(/[ \t"]/, "", $1); gsub(/[ \t]/, "", $2); printf ",\"%s\":%s", $1, $2
        }
        inside && /}/ { exit }' /tmp/answer)
    [ -n "$figures" ] || fail "iperf3 $what says nothing"
    echo "@result {\"role\":\"client\",\"what\":\"$what\",\"frames\":$frames$figures}"
}

case $role in
driver)
    insmod /modules/xen-netback.ko || fail "no xen-netback"
    echo "@ready driver"
    await 1200 frontend
    vif=$(frontend | head -n 1)
    ip addr add 10.0.0.1/24 dev "$vif"
    ip link set "$vif" up
    client=$(xenstore-list backend/vif | head -n 1)
    xenstore-write "backend/vif/$client/0/hotplug-status" connected || fail "no XenStore"
    iperf3 -s -D
    while sleep 60; do :; done
    ;;
client)
    insmod /modules/xen-netfront.ko || fail "no xen-netfront"
    await 600 test -e /sys/class/net/eth0
    ip addr add 10.0.0.2/24 dev eth0
    ip link set eth0 up
    await 600 ping -c 1 -W 1 10.0.0.1
    times=$(ping -c 20 -i 0.05 10.0.0.1 | sed -n 's/^round-trip [^=]*= \([0-9.]*\).*/\1/p')
    echo "@result {\"role\":\"client\",\"what\":\"ping\",\"least_ms\":${times:-null}}"
    measure tcp_from_client
    measure tcp_to_client -R
    measure udp_64_from_client -u -b 0 -l 64
    measure udp_64_to_client -u -b 0 -l 64 -R
    measure udp_1400_from_client -u -b 0 -l 1400
    measure udp_1400_to_client -u -b 0 -l 1400 -R
    echo "@result {\"role\":\"client\",\"ok\":true}"
    poweroff -f
    ;;
*) fail "role=driver or role=client is missing" ;;
esac
