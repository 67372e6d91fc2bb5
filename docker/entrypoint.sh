#!/bin/bash
# NVIDIA's entry point first: it switches on CUDA's forward compatibility where the host's driver is older than the
# image's CUDA. What it prints goes to stderr: on stdout are results alone, such as JSON.
exec 3>&1 >&2
exec /opt/nvidia/nvidia_entrypoint.sh /bin/bash -c 'exec "$@" >&3 3>&-' hemf-export /opt/hemf/bin/hemf-export "$@"
