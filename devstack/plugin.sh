#!/bin/bash
# DevStack's plugin of Astara: what to do in each phase. The work is in lib/astara.

# shellcheck source=lib/astara
source "$(dirname "${BASH_SOURCE[0]}")/lib/astara"

if is_service_enabled astara; then
    case "${1:-} ${2:-}" in
        "stack pre-install")
            echo_summary "Looking whether Astara can be installed"
            astara_check
            ;;
        "stack install")
            echo_summary "Installing Astara"
            astara_install
            ;;
        "stack post-config")
            echo_summary "Configuring Neutron and Nova for Astara"
            astara_configure_neutron
            astara_configure_nova
            astara_create_account
            ;;
        "stack extra")
            echo_summary "Making what Astara needs in the cloud, and starting it"
            astara_create_image
            astara_create_flavor
            astara_create_management_network
            astara_create_router_flavor
            astara_configure
            astara_start
            ;;
        "unstack ")
            astara_stop
            ;;
        "clean ")
            astara_clean
            ;;
    esac
fi
