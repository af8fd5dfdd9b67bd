# Process 1 of many domains on one bridge: `role=driver` serves `clients=N` interfaces, `role=client number=I` has
# the I-th address, pings the driver and the next client, says so to the driver by a connection, and stays until
# its network goes, which is when the driver has heard of all. `@fail TEXT` ends a domain.

echo "@result {\"role\":\"$role\",\"what\":\"boot\",\"uptime_s\":$up}"
store

case $role in
driver)
    load xen-netback llc stp bridge
    brctl addbr br0
    ip addr add 10.0.0.1/16 dev br0
    ip link set br0 up
    nc -ll -p 9 -e /bin/mktemp /tmp/done.XXXXXX &
    until [ "$(ls /tmp | grep -c '^done')" -eq "$clients" ]; do
        for vif in $(ls /sys/class/net | grep '^vif'); do
            [ ! -e "/sys/class/net/$vif/master" ] || continue
            brctl addif br0 "$vif" && ip link set "$vif" up || continue
            connected "$vif" || fail "no XenStore"
        done
        sleep 0.2
    done
    read -r up idle < /proc/uptime
    echo "@result {\"role\":\"driver\",\"what\":\"all\",\"uptime_s\":$up}"
    ;;
client)
    load xen-netfront
    await 1200 test -e /sys/class/net/eth0
    ip addr add "10.0.1.$number/16" dev eth0
    ip link set eth0 up
    lost=0
    for address in 10.0.0.1 "10.0.1.$((number % clients + 1))"; do
        await 1200 ping -c 1 -W 1 "$address"
        # An answer may be late, since everybody boots at once on few processors, or lost, which is counted.
        ping -c 5 -i 0.2 -W 20 "$address" > /tmp/answer || fail "ping $address: $(tail -n 2 /tmp/answer)"
        answers=$(grep -c ' bytes from ' /tmp/answer)
        lost=$((lost + 5 - answers))
    done
    echo "@result {\"role\":\"client\",\"what\":\"pinged\",\"lost\":$lost}"
    await 600 nc -w 10 10.0.0.1 9 < /dev/null
    # Nothing tells when the last one is done but that the driver goes.
    while [ -e /sys/class/net/eth0 ]; do sleep 1; done
    ;;
*) fail "role=driver or role=client is missing" ;;
esac
poweroff -f
