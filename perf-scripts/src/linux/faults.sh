# Process 1 of domains that lose each other: `role=driver` serves network and disks to whoever comes, again and
# again; `role=client` uses them as long as they are there, and waits for them when they are not. `address=` is a
# client's. `@alive LIFE` is said after each transfer whose data came back as it went, LIFE counting how often the
# network came; `@gone LIFE` when it went; `@disk LIFE` when the disk gave back what was written.
# `rounds=N`: a client is done when its network has gone N times. `@fail TEXT` ends a domain.
# What is typed at the driver: `crash`, `off`.

store

# For the driver: what udev rules would do for interfaces and disks that come.
serve() {
    for vif in $(ls /sys/class/net | grep '^vif'); do
        [ ! -e "/sys/class/net/$vif/master" ] || continue
        brctl addif br0 "$vif" && ip link set "$vif" up || continue
        connected "$vif" && echo "@serves $vif"
    done
    for domid in $(xenstore-list backend/vbd 2> /dev/null); do
        for number in $(xenstore-list "backend/vbd/$domid" 2> /dev/null); do
            node=backend/vbd/$domid/$number
            ! xenstore-read "$node/physical-device" > /dev/null 2>&1 || continue
            params=$(xenstore-read "$node/params") || continue
            device=$(stat -c %t:%T "$params") || fail "no device $params"
            xenstore-write "$node/physical-device" "$device" && echo "@serves vbd $domid"
        done
    done
}

orders() {
    while read -r order; do
        case $order in
        crash) echo c > /proc/sysrq-trigger ;;
        off) poweroff -f ;;
        esac
    done < /dev/hvc0
}

# Each line of progress, and who ends a client that has made none for a minute, with what hangs in its kernel.
progress() {
    echo "$*"
    echo "$*" > /tmp/progress
}
watchdog() {
    while :; do
        : > /tmp/progress
        left=60
        while [ ! -s /tmp/progress ]; do
            left=$((left - 1))
            if [ "$left" -eq 0 ]; then
                echo 8 > /proc/sys/kernel/printk
                echo w > /proc/sysrq-trigger
                sleep 1
                fail "no progress for a minute, at: $(cat /tmp/at)"
            fi
            sleep 1
        done
    done
}
at() { echo "$*" > /tmp/at; }

present() { [ -e /sys/class/net/eth0 ]; }

# One transfer to the driver and back, given up when the network goes.
transfer() {
    nc 10.0.0.1 9 < /tmp/data > /tmp/back &
    pid=$!
    while kill -0 "$pid" 2> /dev/null; do
        if ! present; then
            kill -9 "$pid"
            wait "$pid"
            return 1
        fi
        sleep 0.05
    done
    wait "$pid"
    # A connection that was cut short has given back less, and never anything else.
    size=$(stat -c %s /tmp/back)
    head -c "$size" /tmp/data | cmp -s - /tmp/back || fail "the network gives back something else"
    [ "$size" -eq "$(stat -c %s /tmp/data)" ]
}

disk_test() {
    at no disk
    left=600
    until [ -b /dev/xvda ] && [ "$(cat /sys/block/xvda/size)" -gt 0 ]; do
        present || return 1
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "no disk"
        sleep 0.1
    done
    at disk write
    dd if=/tmp/data of=/dev/xvda bs=1M oflag=direct 2> /dev/null || fail "the disk cannot be written"
    at disk read
    dd if=/dev/xvda of=/tmp/disk bs=1M count=2 iflag=direct 2> /dev/null || fail "the disk cannot be read"
    cmp -s /tmp/data /tmp/disk || fail "the disk gives back something else"
    progress "@disk $life"
}

case $role in
driver)
    load xen-netback brd xen-blkback llc stp bridge
    brctl addbr br0
    ip addr add 10.0.0.1/16 dev br0
    ip link set br0 up
    nc -ll -p 9 -e /bin/cat &
    orders &
    echo "@ready driver"
    while sleep 0.2; do serve; done
    ;;
client)
    load xen-netfront xen-blkfront
    watchdog &
    dd if=/dev/urandom of=/tmp/data bs=1M count=2 2> /dev/null
    life=0
    while :; do
        at no network
        until present; do sleep 0.1; done
        life=$((life + 1))
        ip addr add "$address/16" dev eth0
        ip link set eth0 up
        # No traffic when the disk's backend goes: blkfront cannot be torn out of requests in flight.
        [ -z "$disk" ] || disk_test
        at traffic
        while present; do
            if transfer; then progress "@alive $life"; else sleep 0.2; fi
        done
        progress "@gone $life"
        [ "$life" != "$rounds" ] || poweroff -f
    done
    ;;
*) fail "role=driver or role=client is missing" ;;
esac
