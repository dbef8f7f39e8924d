#!/bin/sh
# What diskimage-builder asks of kpartx, where the kernel has no device mapper (small machines that build and test):
# the partitions of a loop device become the kernel's own, under the names that they would have.
set -eu

for word in "$@"; do device=$word; done
name=$(basename "$device")
case $1 in
    -d*)
        partx --delete "$device"
        rm -f "/dev/mapper/$name"p*
        ;;
    *)
        # A loop device has partitions only if it was set up for that.
        file=$(losetup --noheadings --output BACK-FILE "$device")
        losetup --detach "$device"
        losetup --partscan "$device" "$file"
        partx --update "$device"
        mkdir -p /dev/mapper
        for partition in "$device"p*; do
            ln -sf "$partition" "/dev/mapper/$(basename "$partition")"
        done
        ;;
esac
