#!/bin/sh
# Called by xl when it has made the backend of a network device in dom0.
[ "$1" = online ] || exit 0
ip addr add 10.0.0.1/24 dev "$vif"
ip link set "$vif" up
xenstore-write "$XENBUS_PATH/hotplug-status" connected
