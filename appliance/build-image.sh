#!/bin/bash
# Builds the appliance's image: build-image.sh FILE.qcow2. Root, on Debian 12; what it needs is installed, but for
# diskimage-builder, which gets a virtual environment beside FILE. What DIB_… variables say is kept.
set -eu -o pipefail

output=$1
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
place=$(dirname "$output")
log=${output%.qcow2}.log

# In mounts of its own: a build that is killed leaves none behind.
if [[ "${ASTARA_BUILD_MOUNTS:-}" != private ]]; then
    ASTARA_BUILD_MOUNTS=private exec unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi

missing=()
for program in debootstrap kpartx mmdebstrap qemu-img:qemu-utils sudo; do
    command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
"${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [[ ${#missing[@]} -gt 0 ]]; then
    echo "installing ${missing[*]} from the distribution …"
    apt-get update -q >/dev/null
    apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! grep -q device-mapper /proc/misc && ! modprobe --quiet dm_mod 2>/dev/null; then
    mount --bind "$here/kpartx-without-device-mapper.sh" "$(command -v kpartx)"
    # In a container it is asked for the names that the other has made.
    mount --bind /bin/true "$(command -v dmsetup)"
fi

tools=$place/diskimage-builder
mkdir -p "$place"
if [[ "$here/elements/requirements.txt" -nt "$tools/.ready" ]]; then
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/pip" install -qq -r "$here/elements/requirements.txt"
    touch "$tools/.ready"
fi

unfinished=$(mktemp -d "$place/image-XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
echo "building $output (ten minutes) …"
ELEMENTS_PATH="$here/elements${ELEMENTS_PATH:+:$ELEMENTS_PATH}" PATH="$tools/bin:$PATH" \
    disk-image-create -n --logfile "$log" -o "$unfinished/image.qcow2" block-device-mbr astara-appliance >/dev/null || {
    tail -n 20 "$log" >&2
    echo "the image cannot be built; what went before: $log" >&2
    exit 1
}
mv "$unfinished/image.qcow2" "$output"
ls -sh "$output"
