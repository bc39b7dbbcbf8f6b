#!/usr/bin/env bash
# Writes again every file that is made from others; each is named here, and nothing else makes it.
# Steps write the same bytes when nothing changed: hack/verify-generated.sh relies on it.
set -euo pipefail
cd "$(dirname "$0")/.."

# The CRDs, and the copying of their Go types.
make --silent .build/controller-gen
.build/controller-gen paths=./api/certificates/... paths=./api/networking/... crd:allowDangerousTypes=true output:crd:dir=config/crd \
  object:headerFile=/dev/stdin <<<'// SPDX-License-Identifier: Apache-2.0'

# The policies, for the chart, and the CRD of their parameter.
go run ./policy/internal/generate charts/istiod-agent/policies
cp policy/injections.yaml config/crd/istiod-agent.io_injections.yaml

# The reference of the CRDs and of the configuration file, from the same Go types, with the samples as examples.
make --silent .build/crd-ref-docs
sample() { echo "--template-value=$1=$(cat "config/samples/$2.yaml")"; }
reference() {
  .build/crd-ref-docs --source-path api --config "tools/crd-ref-docs/$1.yaml" --templates-dir tools/crd-ref-docs/templates \
    --renderer markdown --output-path "docs/$1.md" --log-level ERROR "${@:2}"
}
reference api "$(sample IssuedCertificate issuedcertificate-local-key)" "$(sample VirtualMesh virtualmesh-cert-manager)"
reference configuration "$(sample InjectionConfiguration injection)"

# The page of the reasons, from the comments of their constants.
go -C tools run ./reasons --root ..

# The chart's CRDs, its values schema, its values table, and config/ for kustomize.
go -C tools run ./chart --root ..
