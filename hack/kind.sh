#!/usr/bin/env bash
# Keeps clusters of one node by kind, for the tests and for trying out: `make kind-up` and `make kind-down`.
#
#   hack/kind.sh check             fails where Docker does not run
#   hack/kind.sh up N PROGRAM...   starts cluster-1 to cluster-N with the images of .build/images, and has the programs at hand
#   hack/kind.sh down              takes them away
#
# KIND_NODE is the image of the nodes, which decides the version of Kubernetes; without it, it is kind's own choice.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=.build/kind/kind
folder=.build/clusters
# Each line is a cluster that was started here: kind may have others.
ours=$folder/kind
kubeconfig=$PWD/$folder/kubeconfig

fail() {
  echo "$1" >&2
  exit 1
}

check() {
  docker info >/dev/null 2>&1 || fail "kind needs Docker, and \`docker info\` finds none running. On Linux, as root, make cluster-up needs none."
}

up() {
  local count=$1
  shift
  [ ! -e "$folder/pid" ] || fail "Clusters without Docker are running already; remove them first: make cluster-down"
  [ ! -e "$ours" ] || fail "Clusters of kind are running already; remove them first: make kind-down"
  mkdir -p "$folder/bin"
  ln -sf "${@/#/$PWD/}" "$folder/bin/"
  for n in $(seq "$count"); do start "$n"; done
  for a in $(seq "$count"); do
    for b in $(seq "$count"); do [ "$a" = "$b" ] || route "$a" "$b"; done
  done
  "$folder/bin/kubectl" --kubeconfig "$kubeconfig" config use-context cluster-1
  next
}

start() {
  local name=cluster-$1
  ! "$kind" get clusters 2>/dev/null | grep -x "$name" >/dev/null || fail "kind has a cluster $name that was not started here. Take it away first: kind delete cluster --name $name"
  echo "$name" >>"$ours"
  configuration "$1" | "$kind" create cluster --name "$name" --kubeconfig "$kubeconfig" --wait 3m --config - ${KIND_NODE:+--image "$KIND_NODE"}
  "$folder/bin/kubectl" --kubeconfig "$kubeconfig" config rename-context "kind-$name" "$name"
  "$kind" load image-archive --name "$name" .build/images/*.tar
}

# Ranges of their own, or a Pod could not tell another cluster's from its neighbours.
pods() { echo "10.$((10 + $1)).0.0/16"; }

configuration() {
  cat <<END
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  podSubnet: $(pods "$1")
  serviceSubnet: 10.$((110 + $1)).0.0/16
END
}

# route has the Pods of a cluster reach those of another: kind's nodes share a network of Docker's. A route is gone when
# its node's container is started again.
route() {
  local node=cluster-$2-control-plane
  docker exec "cluster-$1-control-plane" ip route replace "$(pods "$2")" \
    via "$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$node")"
}

next() {
  cat <<END

Each cluster is a context:

  export KUBECONFIG=$kubeconfig PATH=$PWD/$folder/bin:\$PATH
  kubectl get nodes --context cluster-1

docs/try-it.md continues from here. To remove everything: make kind-down
END
}

down() {
  [ -e "$ours" ] || fail "No cluster of kind was started here."
  while read -r name; do "$kind" delete cluster --name "$name" --kubeconfig "$kubeconfig" </dev/null; done <"$ours"
  rm -r "$folder"
}

case ${1:-} in
  check | down) "$1" ;;
  up)
    check
    up "${@:2}"
    ;;
  *) fail "usage: hack/kind.sh check | up N PROGRAM... | down" ;;
esac
