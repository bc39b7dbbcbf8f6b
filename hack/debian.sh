#!/usr/bin/env bash
# Installs the Debian packages that a cluster with a node needs, unless they are there. Elsewhere their programs have to
# be there already.
set -euo pipefail

declare -A packages=(
  [runc]=runc [nft]=nftables [ip]=iproute2 [busybox]=busybox-static
  [/usr/lib/cni/bridge]=containernetworking-plugins
)
missing=()
for program in "${!packages[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  echo "A node needs what these Debian packages hold, and apt-get is not there to install them: ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
