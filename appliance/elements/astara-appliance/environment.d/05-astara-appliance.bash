# Sourced before debian-minimal's own defaults; what the caller has set wins.
export DIB_RELEASE=${DIB_RELEASE:-bookworm}
# No ifupdown: the agent sets up every interface.
export DIB_APT_MINIMAL_CREATE_INTERFACES=${DIB_APT_MINIMAL_CREATE_INTERFACES:-0}
# Nobody is there to choose.
export DIB_GRUB_TIMEOUT=${DIB_GRUB_TIMEOUT:-0}
# The serial console is added to it by the bootloader element. The agent names the interfaces.
export DIB_BOOTLOADER_DEFAULT_CMDLINE=${DIB_BOOTLOADER_DEFAULT_CMDLINE:-quiet net.ifnames=0}
# Where Debian documents it.
export DIB_DEBIAN_SECURITY_MIRROR=${DIB_DEBIAN_SECURITY_MIRROR:-http://security.debian.org/debian-security}
