# What DevStack offers to its plugins, as far as Astara's uses it: each call is a line in $CALLS.
# $STATE is a folder: files in it are resources of the cloud, with their ids.

record() {
    printf '%s\n' "$*" >>"$CALLS"
}

for name in echo_summary pip_install git_clone install_package neutron_service_plugin_class_add \
    neutron_ml2_extension_driver_add create_service_user recreate_database run_process stop_process \
    enable_service disable_service; do
    eval "$name() { record $name \"\$@\"; }"
done

is_service_enabled() {
    local one
    for one in "$@"; do
        [[ ",$ENABLED_SERVICES," == *",$one,"* ]] && return 0
    done
    return 1
}

die() {
    shift
    echo "$*" >&2
    exit 1
}

iniset() {
    record iniset "$1" "$2" "$3"
    "$PYTHON" "$STUBS/ini.py" set "$@"
}

iniadd() {
    record iniadd "$@"
    "$PYTHON" "$STUBS/ini.py" add "$@"
}

generate_hex_string() {
    head -c "$1" /dev/zero | tr '\0' a
}

get_notification_url() {
    echo "rabbit://stackrabbit:${RABBIT_PASSWORD}@127.0.0.1:5672/"
}

database_connection_url() {
    echo "mysql+pymysql://root:${DATABASE_PASSWORD}@127.0.0.1/$1?plugin=astara"
}

sudo() {
    if [[ "$1" == install ]]; then
        mkdir -p "${!#}"
    else
        record sudo "$@"
    fi
}

systemctl() {
    [[ "${!#}" == devstack@neutron-api ]]
}

curl() {
    record curl "$@"
    local out=
    while [[ $# -gt 1 ]]; do
        [[ "$1" == --output ]] && out=$2
        shift
    done
    [[ "$1" != *missing* ]] && echo image >"$out"
}

# Nothing is installed: the interpreter is only asked for its version.
python3() {
    [[ "$1" == -c ]] || record python3 "$@"
}
