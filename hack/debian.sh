#!/usr/bin/env bash
# Installs the Debian packages of some programs, unless they are there. Elsewhere the programs have to be there already.
#
#   hack/debian.sh [PROGRAM...]   by default, those that a cluster with a node needs
set -euo pipefail

declare -A packages=(
  [runc]=runc [nft]=nftables [ip]=iproute2 [busybox]=busybox-static
  [/usr/lib/cni/bridge]=containernetworking-plugins
  [chromium]=chromium [jq]=jq
)
[ $# -gt 0 ] || set -- runc nft ip busybox /usr/lib/cni/bridge
missing=()
for program; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  echo "What these Debian packages hold is needed, and apt-get is not there to install them: ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}."
root=(env DEBIAN_FRONTEND=noninteractive)
[ "$(id -u)" = 0 ] || root=(sudo "${root[@]}")
"${root[@]}" apt-get update -qq
"${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
