#!/bin/busybox sh
# What every script begins with that is process 1 of a Linux domain, dom0 too: file systems, the words of the kernel's
# command line that are for it as variables, the time of its start in `up`, and what all of them need.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
read -r up idle < /proc/uptime
for word in $(cat /proc/cmdline); do
    case $word in
    role=* | layout=* | seconds=* | clients=* | disk=* | end=* | number=* | address=* | rounds=*) export "$word" ;;
    esac
done

# Ends the domain; whoever reads the console fails.
fail() {
    echo "@fail $*"
    poweroff -f
}

load() {
    for module in "$@"; do
        insmod "/modules/$module.ko" || fail "no $module"
    done
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

# The store and its tools.
store() {
    load xen-evtchn xen-privcmd xenfs
    mount -t xenfs xenfs /proc/xen
    ifconfig lo up
}

# For drivers: tells xen-netback that all is done for the interface vifN.M, as a udev rule would.
connected() {
    domid=${1#vif}
    domid=${domid%.*}
    xenstore-write "backend/vif/$domid/${1#*.}/hotplug-status" connected
}

