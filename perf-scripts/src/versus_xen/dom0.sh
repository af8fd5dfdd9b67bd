# Process 1 of dom0: starts Xen's own toolstack, has it make the domains, and shows their consoles in the
# form Tollgate's has. `layout=` on the kernel's command line says which domains: see the end.

export PATH=$PATH:/usr/lib/xen-4.17/bin
mkdir -p /dev/pts /run/xen /run/lock /run/xenstored /etc/xen /var/lib/xen /var/lib/xenstored /var/log/xen
ln -s /run /var/run
ln -s /run/lock /var/lock
mount -t devpts devpts /dev/pts
: > /etc/xen/xl.conf

say() {
    read -r up idle < /proc/uptime
    echo "@result {\"role\":\"dom0\",\"what\":\"$1\",\"uptime_s\":$up}"
}

# Writes domain $1's description and makes it; its console comes with number $2 before each line.
create() {
    name=$1 number=$2
    shift 2
    {
        printf '%s\n' "name='$name'" "type='pvh'" "memory=256" "vcpus=1" "$@"
        # The time-stamp counter as it is: no exit for each read.
        printf '%s\n' "kernel='/domains/kernel'" "ramdisk='/domains/initramfs'" "tsc_mode='native'"
        printf '%s\n' "cmdline='console=hvc0 quiet role=$name $words'"
    } > "/$name.cfg"
    log=/var/log/xen/console/guest-$name.log
    : > "$log"
    tail -f "$log" | while read -r line; do echo "(d$number $name) $line"; done &
    xl create "/$name.cfg" || fail "xl create $name"
    say "$name created"
}

say boot
load xen-gntdev xen-gntalloc
store
xenstored || fail "no xenstored"
await 100 xenstore-list /
xen-init-dom0 || fail "xen-init-dom0"
mkdir -p /var/log/xen/console
xenconsoled --log=guest --log-dir=/var/log/xen/console || fail "no xenconsoled"
say daemons

case $layout in
driver)
    # Its RAM disk, which it attaches to xen-blkback itself, as it does without a toolstack.
    words="disk=16"
    create driver 1 "driver_domain=1"
    await 600 grep -q '@ready' /var/log/xen/console/guest-driver.log
    create client 2 "vif=['backend=driver']" \
        "disk=['format=raw,vdev=xvda,access=w,backend=driver,target=/dev/ram0']"
    ;;
dom0)
    load xen-netback
    iperf3 -s -D
    create client 1 "vif=['script=/vif-online']"
    ;;
guests)
    # Small guests of ours; they print to Xen's console themselves.
    number=1
    for description in /domains/*.cfg; do
        xl create "$description" || fail "xl create $description"
    done
    ;;
*) fail "layout=driver, dom0 or guests is missing" ;;
esac
# The machine is switched off from outside when the client has told all. Until then dom0 does as little as
# it can: what it does is counted too.
while sleep 5; do
    xenstore-list "/local/domain/$number" > /dev/null || fail "the last domain has gone"
done
