#!/bin/busybox sh
# Process 1 of the machine: makes it fit for the guard, runs the smoke test, and switches it off. Whatever goes wrong, the line that
# says that all went well is then missing.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp MCP_GUARD_BIN_DIR=/guard RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
for module in /modules/*.ko; do
    insmod "$module" || echo "SMOKE on a kernel that does not take $module"
done
/guard/kernel-smoke
poweroff -f
