#!/bin/sh
# Copies the files of this directory to where Debian 12 looks for them, below ROOT: install.sh [ROOT]
set -eu
root=${1:-}
here=$(dirname "$0")

put() {
    install -D -m 0644 "$here/$1" "$root$2"
}

put systemd/astara-appliance.service /etc/systemd/system/astara-appliance.service
put sysusers.d/astara.conf /etc/sysusers.d/astara.conf
put tmpfiles.d/astara.conf /etc/tmpfiles.d/astara.conf
put modules-load.d/astara.conf /etc/modules-load.d/astara.conf
put sysctl.d/60-astara.conf /etc/sysctl.d/60-astara.conf
put network/10-astara.link /etc/systemd/network/10-astara.link
put cloud.cfg.d/99-astara.cfg /etc/cloud/cloud.cfg.d/99-astara.cfg

if [ -z "$root" ]; then
    systemd-sysusers astara.conf
    systemd-tmpfiles --create astara.conf
    systemctl daemon-reload
fi
