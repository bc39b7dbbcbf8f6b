# `make help` lists the targets.
# Go, make and git are all it takes: everything else is built from pinned Go modules into .build/.

VERSION  ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.0.0-dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
REGISTRY ?= ghcr.io/istiod-agent
ARCH     ?= $(shell go env GOARCH)
FUZZTIME ?= 30s
# The only time in an image: the commit's.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# The same for everything that Go compiles: no package is compiled twice, no C compiler is needed,
# and the same commit gives the same bytes on every machine. Data for a debugger, which no program here keeps, would make
# Go compile a sixth longer.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath -buildvcs=false -gcflags=all=-dwarf=false)

.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- The product -------------------------------------------------------------

PROGRAMS := istiod-agent istiod-agent-webhook istiod-agent-traffic kubectl-istiod_agent
set_version = -X github.com/istiod-agent/istiod-agent/internal/version.Version=$(VERSION)

.PHONY: build
build: $(PROGRAMS:%=bin/%) ## Build the four programs into bin/

# The Go module of a program: the one that links gRPC has its own.
module = $(if $(filter istiod-agent-traffic,$(1)),traffic,.)

bin/linux-$(ARCH)/%: FORCE
	@GOOS=linux GOARCH=$(ARCH) hack/build.sh $@ $(call module,$*) ./cmd/$* "$(set_version)"

bin/%: FORCE
	@hack/build.sh $@ $(call module,$*) ./cmd/$* "$(set_version)"

# The licences of a program and of all that it links.
licenses = hack/build.sh .build/licenses tools ./licenses && .build/licenses --root $(call module,$(notdir $<)) --output $@ $<

bin/linux-$(ARCH)/%.licenses: bin/linux-$(ARCH)/%
	@$(licenses)

bin/plugin/%.licenses: bin/plugin/%
	@$(licenses)

# The images: each has the name of its program. Its stage in the Dockerfile is the name's last part: agent, webhook, traffic.
IMAGES := istiod-agent istiod-agent-webhook istiod-agent-traffic
stage = $(lastword $(subst -, ,$(1)))
IMAGE_FILES = $(foreach program,$(IMAGES),bin/linux-$(ARCH)/$(program) bin/linux-$(ARCH)/$(program).licenses)

tag = $(VERSION:v%=%)
# An image's archive: $(1) image, $(2) tag, $(3) file.
archive = .build/image --target $(call stage,$(1)) --arch $(ARCH) --name $(REGISTRY)/$(1):$(2) --created $(SOURCE_DATE_EPOCH) \
	--build-arg VERSION=$(tag) --build-arg REVISION=$(REVISION) --output $(3)

.PHONY: image
image: $(IMAGE_FILES) ## Write the container images to dist/, without Docker (ARCH=arm64 for the other architecture)
	@hack/build.sh .build/image tools ./image
	@mkdir -p dist
	@$(foreach image,$(IMAGES),$(call archive,$(image),$(tag),dist/$(image)-$(tag)-$(ARCH).tar) &&) true

PLATFORMS := linux-amd64 linux-arm64 darwin-amd64 darwin-arm64

.PHONY: plugin
plugin: $(foreach platform,$(PLATFORMS),bin/plugin/$(platform)/kubectl-istiod_agent bin/plugin/$(platform)/kubectl-istiod_agent.licenses) ## Write the kubectl plugin's archives, and its manifest for krew, to dist/
	@go -C tools run ./krew --root $(CURDIR) --version $(VERSION) --created $(SOURCE_DATE_EPOCH) --output $(CURDIR)/dist

# The image of the Pods of verify --traffic and join, which a release sets to name it by its digest.
set_traffic_image = $(if $(TRAFFIC_IMAGE),-X github.com/istiod-agent/istiod-agent/cli/pods.released=$(TRAFFIC_IMAGE))

bin/plugin/%/kubectl-istiod_agent: FORCE
	@GOOS=$(firstword $(subst -, ,$*)) GOARCH=$(lastword $(subst -, ,$*)) hack/build.sh $@ . ./cmd/kubectl-istiod_agent "$(set_version) $(set_traffic_image)"

# --- A release ----------------------------------------------------------------

.PHONY: release
release: ## Write a release to dist/: images of both architectures, chart, plugin, SBOMs and checksums (VERSION=v0.2.0)
	@rm -rf dist
	@$(MAKE) --no-print-directory image ARCH=amd64
	@$(MAKE) --no-print-directory image ARCH=arm64
	@hack/build.sh .build/release/release tools ./release
	@.build/release/release images $(release_flags) $(IMAGES)
	@image=$$(grep '/istiod-agent-traffic:' dist/images.txt) || { echo "dist/images.txt does not name the image istiod-agent-traffic" >&2; exit 1; }; \
		$(MAKE) --no-print-directory plugin TRAFFIC_IMAGE="$$image"
	@$(MAKE) --no-print-directory release-files

release_flags = --registry $(REGISTRY) --tag $(tag) --created $(SOURCE_DATE_EPOCH) --dist dist

# What is made of the images and of the plugin's archives, and the checksums of all but the images, which a registry has.
.PHONY: release-files
release-files: helm
	@.build/release/release files $(release_flags) --chart charts/istiod-agent --staged-chart .build/release/istiod-agent
	@$(HELM_BINARY) package .build/release/istiod-agent --version $(tag) --app-version $(tag) --destination dist
	@cd dist && sha256sum $$(ls | grep -v -e '\.tar$$' -e '^checksums.txt$$') >checksums.txt

# Not a part of make test, which tests a release of the programs for one platform.
.PHONY: release-test
release-test: push-tools ## Write a release of all platforms twice, compare and check it, without the network (ten minutes on two cores)
	@cd tools && WHOLE_RELEASE=1 $(go_test) -count=1 -timeout 60m -v -run TestWholeRelease ./release

HELM_BINARY := .build/helm/helm
.PHONY: helm
helm:
	@hack/build.sh $(HELM_BINARY) e2e helm.sh/helm/v4/cmd/helm

.PHONY: push-tools
push-tools: helm .build/crane

.PHONY: push
push: push-tools ## Push the images and the chart that make release wrote to dist/, to REGISTRY
	@hack/push.sh $(REGISTRY) $(tag)

.build/crane: tools/go.mod
	@hack/build.sh $@ tools github.com/google/go-containerregistry/cmd/crane

# --- Seeing it work ----------------------------------------------------------

# What is built first is shown first: the patch by the command inject, the injection by the API server, then the CA by Vault and istiod.
.PHONY: demo
demo: ## See the injection, and istiod with a CA from Vault, on this machine (KEEP=1 leaves it running, to try)
	@exec hack/demo.sh $(if $(KEEP),--keep)

# make lint runs vet; before a test, it would check each package of the dependencies too, for the names of functions like Printf.
go_test = go test -vet=off

npm := $(shell command -v npm)
.PHONY: test-packages
test-packages:
	@hack/debian.sh jq $(if $(CHROMIUM),,$(if $(npm),chromium))

.PHONY: test
test: ## Run every check but the longest: unit, generated files, lint, site, integration and, as root, e2e-core
	@exec hack/test.sh

# RACE=1 adds the race detector, which needs a C compiler.
.PHONY: unit
unit: unit-product unit-tools ## Test each package alone (RACE=1 with the race detector)

.PHONY: unit-product
unit-product:
	@$(if $(RACE),CGO_ENABLED=1) $(go_test) $(if $(RACE),-race) ./...
	@cd traffic && $(if $(RACE),CGO_ENABLED=1) $(go_test) $(if $(RACE),-race) ./...

.PHONY: unit-tools
unit-tools:
	@hack/debian.sh jq # for hack/push.sh, which the tests of tools/release run
	@cd tools && $(go_test) -count=1 ./... # Go's cache does not see files of the other modules

# Go's own number, one for each processor, leaves these idle for a third of the time.
packages_at_once = $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2))

.PHONY: integration
integration: integration-programs ## Test against a real API server, a real Vault and a real istiod, as processes
	@cd e2e && $(go_test) -count=1 -timeout 30m -p $(packages_at_once) $$(go list ./... | grep -v /suite) # Go's cache does not see programs and files outside the module

# The clusters with a node that the suite is run in: those of kind where Docker runs, else its own.
.PHONY: e2e-core
ifeq ($(shell id -u),0)
e2e-core: test-images client-programs ## Go through the guide in one cluster with real Pods, with a renewal and a failure (on Linux as root)
	@cd e2e && $(go_test) -count=1 -timeout 30m -v ./suite -args -number 1 -labels suite=core
else
e2e-core:
	@echo "e2e-core is left out: a cluster's node needs root."
endif

.PHONY: e2e
e2e: ## Run the whole suite in two clusters with real Pods: those of kind where Docker runs, else its own, as root
	@$(MAKE) --no-print-directory $(if $(docker),e2e-kind,e2e-nodes)

docker = $(shell docker info >/dev/null 2>&1 && echo runs)

.PHONY: e2e-nodes
e2e-nodes: test-images client-programs
	@cd e2e && $(go_test) -p 1 -count=1 -timeout 60m -v ./suite/... # one after the other: each has the clusters to itself

# Its package broken is left out: it breaks clusters of its own.
.PHONY: e2e-kind
e2e-kind: ## Run the suite in two clusters of kind, where Docker runs, and remove them
	@$(MAKE) --no-print-directory kind-up CLUSTERS=2
	@cd e2e && status=0; PATH=$(CURDIR)/.build/clusters/bin:$$PATH $(go_test) -count=1 -timeout 60m -v ./suite \
		-args -kubeconfig $(CURDIR)/.build/clusters/kubeconfig -contexts cluster-1,cluster-2 || status=1; ../hack/kind.sh down; exit $$status

.PHONY: bench
bench: servers whole-vault ## Measure time and memory against bounds (SECTIONS="webhook admission agent cert-manager controllers contexts" for some of them)
	@cd e2e && go run ./cmd/bench $(SECTIONS)

.PHONY: fuzz
fuzz: ## Run every fuzz test for FUZZTIME (30s)
	@hack/fuzz.sh $(FUZZTIME)

# --- The control plane of the tests and the demo -----------------------------

# The version of a module where it is pinned.
pinned = $(shell sed -n 's|^[a-z ]*\t\{0,1\}$(2) v\([^ ]*\).*|\1|p' e2e/binaries/$(1)/go.mod)

KUBERNETES := $(call pinned,kubernetes,k8s.io/kubernetes)
ETCD       := $(call pinned,etcd,go.etcd.io/etcd/server/v3)
VAULT      := $(call pinned,vault,github.com/hashicorp/vault)
ISTIO      := $(call pinned,istio,istio.io/istio)
CERT_MANAGER := $(call pinned,cert-manager,github.com/cert-manager/cert-manager)
APPROVER_POLICY := $(call pinned,approver-policy,github.com/cert-manager/approver-policy)
TRUST_MANAGER := $(call pinned,trust-manager,github.com/cert-manager/trust-manager)

APISERVER_BINARY := .build/kubernetes-$(KUBERNETES)/kube-apiserver
ETCD_BINARY      := .build/etcd-$(ETCD)/etcd
VAULT_BINARY     := .build/vault-$(VAULT)/vault
WHOLE_VAULT      := .build/vault-$(VAULT)/whole/vault
ISTIOD_BINARY    := .build/istio-$(ISTIO)/pilot-discovery
CERT_MANAGER_BINARIES := $(addprefix .build/cert-manager-$(CERT_MANAGER)/cert-manager-,controller cainjector)
APPROVER_BINARY  := .build/approver-policy-$(APPROVER_POLICY)/approver-policy
TRUST_MANAGER_BINARY := .build/trust-manager-$(TRUST_MANAGER)/trust-manager

# KUBEBUILDER_ASSETS names a folder that has both. ENVTEST_INSTALLED_ONLY=1 downloads nothing, as in setup-envtest.
.PHONY: control-plane
ifdef KUBEBUILDER_ASSETS
control-plane:
else
control-plane: $(if $(ENVTEST_INSTALLED_ONLY),,ready-made) $(ETCD_BINARY) $(APISERVER_BINARY) ## Get kube-apiserver and etcd: ready-made within seconds, else built; or set KUBEBUILDER_ASSETS to their folder
endif

# Those of setup-envtest, of the same minor release: KUBERNETES itself is seldom there. The program itself reads ENVTEST_INDEX, which
# may have a password, and characters of the shell.
.PHONY: ready-made
ready-made:
	@test -x $(APISERVER_BINARY) -a -x $(ETCD_BINARY) || { hack/build.sh .build/e2e/envtest e2e ./cmd/envtest && \
		.build/e2e/envtest --kubernetes $(KUBERNETES) --apiserver $(APISERVER_BINARY) --etcd $(ETCD_BINARY); } || \
		echo "kube-apiserver and etcd are built from source."

$(ETCD_BINARY):
	@echo "Building etcd $(ETCD), once."
	@hack/build.sh $@ e2e/binaries/etcd go.etcd.io/etcd/server/v3

release = $(subst ., ,$(KUBERNETES))
kubernetes_version = k8s.io/component-base/version
$(APISERVER_BINARY):
	@echo "Building kube-apiserver $(KUBERNETES), once: up to ten minutes on two cores."
	@hack/build.sh $@ e2e/binaries/kubernetes k8s.io/kubernetes/cmd/kube-apiserver "-X $(kubernetes_version).gitVersion=v$(KUBERNETES) \
		-X $(kubernetes_version).gitMajor=$(word 1,$(release)) -X $(kubernetes_version).gitMinor=$(word 2,$(release))"

.PHONY: servers
servers: control-plane $(VAULT_BINARY) $(ISTIOD_BINARY) $(CERT_MANAGER_BINARIES) $(APPROVER_BINARY) $(TRUST_MANAGER_BINARY) ## Build the control plane, a Vault, an istiod, cert-manager, approver-policy and trust-manager

# What the demo gets while it builds and shows the injection; first what it will need next.
.PHONY: demo-meanwhile
demo-meanwhile: demo-packages $(VAULT_BINARY) $(ISTIOD_BINARY) bin/kubectl-istiod_agent
	@echo "Everything is built." # e2e/cmd/demo waits for this line

.PHONY: demo-packages
demo-packages:
	@go -C e2e build -o /dev/null ./cmd/demo >/dev/null 2>&1 || true # the build itself prints the error
	@go build -o /dev/null ./cmd/istiod-agent-webhook >/dev/null 2>&1 || true

# minimal is Vault's own tag: it leaves out the plugins that e2e/binaries/vault/main.go does not name.
$(VAULT_BINARY): $(wildcard e2e/binaries/vault/*)
	@echo "Building Vault $(VAULT), once: up to five minutes on two cores."
	@GOFLAGS="$(GOFLAGS) -tags=minimal" hack/build.sh $@ e2e/binaries/vault github.com/istiod-agent/istiod-agent/e2e/binaries/vault

# Vault as it is shipped, for its `vault agent`: the benchmark shows that beside ours.
.PHONY: whole-vault
whole-vault: $(WHOLE_VAULT)

$(WHOLE_VAULT):
	@echo "Building the whole of Vault $(VAULT), once: up to ten minutes on two cores."
	@hack/build.sh $@ e2e/binaries/vault-whole github.com/hashicorp/vault

$(ISTIOD_BINARY):
	@echo "Building istiod $(ISTIO), once: up to six minutes on two cores."
	@hack/build.sh $@ e2e/binaries/istio istio.io/istio/pilot/cmd/pilot-discovery

.build/cert-manager-$(CERT_MANAGER)/cert-manager: $(wildcard e2e/binaries/cert-manager/*.go)
	@echo "Building cert-manager $(CERT_MANAGER), once: up to five minutes on two cores."
	@hack/build.sh $@ e2e/binaries/cert-manager github.com/istiod-agent/istiod-agent/e2e/binaries/cert-manager \
		"-X github.com/cert-manager/cert-manager/pkg/util.AppVersion=v$(CERT_MANAGER)"

$(CERT_MANAGER_BINARIES): .build/cert-manager-$(CERT_MANAGER)/cert-manager
	@ln -sf cert-manager $@

$(APPROVER_BINARY): e2e/binaries/approver-policy/main.go
	@echo "Building approver-policy $(APPROVER_POLICY), once: up to five minutes on two cores."
	@hack/build.sh $@ e2e/binaries/approver-policy github.com/istiod-agent/istiod-agent/e2e/binaries/approver-policy

$(TRUST_MANAGER_BINARY):
	@echo "Building trust-manager $(TRUST_MANAGER), once: up to eight minutes on two cores."
	@hack/build.sh $@ e2e/binaries/trust-manager github.com/cert-manager/trust-manager/cmd/trust-manager

# --- Clusters with a node, for the tests in e2e/suite -------------------------

CONTAINERD   := $(call pinned,containerd,github.com/containerd/containerd/v2)
COREDNS      := $(call pinned,coredns,github.com/coredns/coredns)

NODE_PROGRAMS := kubelet kube-proxy kube-controller-manager kube-scheduler kubectl
NODE_BINARIES := $(NODE_PROGRAMS:%=.build/kubernetes-$(KUBERNETES)/%)
RUNTIME_BINARIES := .build/containerd-$(CONTAINERD)/containerd .build/containerd-$(CONTAINERD)/containerd-shim-runc-v2 .build/containerd-$(CONTAINERD)/ctr
COREDNS_BINARY   := .build/coredns-$(COREDNS)/coredns
ISTIOCTL_BINARY  := .build/istio-$(ISTIO)/istioctl
NODE_PARTS       := $(NODE_BINARIES) $(RUNTIME_BINARIES) $(COREDNS_BINARY)

# What make test builds in the background: programs alone, as only one process at a time can install packages, and sudo may ask.
.PHONY: integration-programs
integration-programs: servers helm .build/kubernetes-$(KUBERNETES)/kube-controller-manager # its garbage collector, for what a deleted Pod leaves

.PHONY: e2e-programs
ifeq ($(shell id -u),0)
e2e-programs: $(NODE_PARTS) $(ISTIOCTL_BINARY)
else
e2e-programs: ;
endif

.PHONY: node
node: control-plane $(NODE_PARTS) ## Build the parts of a cluster with a node
	@hack/debian.sh

.build/kubernetes-$(KUBERNETES)/kubernetes: e2e/binaries/kubernetes/main.go
	@echo "Building a node's part of Kubernetes $(KUBERNETES), once: up to eight minutes on two cores."
	@hack/build.sh $@ e2e/binaries/kubernetes github.com/istiod-agent/istiod-agent/e2e/binaries/kubernetes "-X $(kubernetes_version).gitVersion=v$(KUBERNETES) \
		-X $(kubernetes_version).gitMajor=$(word 1,$(release)) -X $(kubernetes_version).gitMinor=$(word 2,$(release))"

$(NODE_PROGRAMS:%=.build/kubernetes-$(KUBERNETES)/%): .build/kubernetes-$(KUBERNETES)/kubernetes
	@ln -sf kubernetes $@

$(RUNTIME_BINARIES):
	@hack/build.sh $@ e2e/binaries/containerd github.com/containerd/containerd/v2/cmd/$(notdir $@)

# The images of those clusters: istiod-agent.test/NAME:1, and the project's own by the names that the chart has.
CHART_TAG := $(shell sed -n 's/^appVersion: //p' charts/istiod-agent/Chart.yaml)
# A cluster of kind has the first two of its own.
NODE_IMAGES  := pause coredns
GUIDE_IMAGES := workload pilot vault cert-manager
test_image = .build/image --file $(1) --context $(2) --target $(3) --arch $(ARCH) --name $(4) --created $(SOURCE_DATE_EPOCH) $(5) --output .build/images/$(3).tar
test_images = for image in $(1); do \
	$(call test_image,e2e/images/Dockerfile,.build,$$image,istiod-agent.test/$$image:1,--build-arg COREDNS=$(COREDNS) --build-arg ISTIO=$(ISTIO) --build-arg VAULT=$(VAULT) --build-arg CERT_MANAGER=$(CERT_MANAGER)) >/dev/null || exit 1; done

.PHONY: test-images
test-images: node guide-images ## Write the container images of the clusters with a node
	@$(call test_images,$(NODE_IMAGES))

.PHONY: guide-images
guide-images: $(VAULT_BINARY) $(ISTIOD_BINARY) $(CERT_MANAGER_BINARIES) $(IMAGE_FILES)
	@hack/debian.sh busybox
	@hack/build.sh .build/image tools ./image
	@hack/build.sh .build/e2e/workload e2e ./cmd/workload
	@mkdir -p .build/images && cp "$$(PATH=$$PATH:/usr/sbin:/sbin command -v busybox)" .build/busybox
	@$(call test_images,$(GUIDE_IMAGES))
	@$(foreach image,$(IMAGES),$(call archive,$(image),$(CHART_TAG),.build/images/$(call stage,$(image)).tar) >/dev/null &&) true

CLUSTERS ?= 1

# What a person works with, beside bin/.
.PHONY: client-programs
client-programs: helm bin/kubectl-istiod_agent $(ISTIOCTL_BINARY)

.PHONY: cluster-up
cluster-up: test-images client-programs ## Start a cluster with a node on this Linux machine, as root, and leave it running (CLUSTERS=2 for two)
	@hack/build.sh .build/e2e/clusters e2e ./cmd/clusters
	@.build/e2e/clusters up -n $(CLUSTERS)

.PHONY: cluster-down
cluster-down: ## Remove the cluster
	@hack/build.sh .build/e2e/clusters e2e ./cmd/clusters
	@.build/e2e/clusters down

KUBECTL_BINARY := .build/kubernetes-$(KUBERNETES)/kubectl

.PHONY: docker-runs
docker-runs:
	@hack/kind.sh check

# KIND_NODE=kindest/node:v1.36.1 for another version of Kubernetes than kind's own choice.
.PHONY: kind-up
kind-up: docker-runs guide-images client-programs $(KUBECTL_BINARY) ## Start clusters with kind, where Docker runs, and leave them running (CLUSTERS=2 for two)
	@hack/build.sh .build/kind/kind e2e/binaries/kind sigs.k8s.io/kind
	@KIND_NODE=$(KIND_NODE) hack/kind.sh up $(CLUSTERS) $(KUBECTL_BINARY) $(HELM_BINARY) $(ISTIOCTL_BINARY) bin/kubectl-istiod_agent

.PHONY: kind-down
kind-down: ## Remove the clusters of kind
	@hack/kind.sh down

$(COREDNS_BINARY):
	@echo "Building CoreDNS $(COREDNS), once: up to three minutes on two cores."
	@hack/build.sh $@ e2e/binaries/coredns github.com/coredns/coredns

$(ISTIOCTL_BINARY):
	@hack/build.sh $@ e2e/binaries/istio istio.io/istio/istioctl/cmd/istioctl

# --- The documentation site ----------------------------------------------------

site/node_modules/.package-lock.json: site/package-lock.json
	@npm --prefix site ci --no-audit --no-fund --ignore-scripts --loglevel error

.PHONY: site
site: site/node_modules/.package-lock.json ## Build the documentation site into dist/site (Node.js 20 or newer; BASE=/path/ where it is served)
	@VERSION=$(VERSION) npm --prefix site run --silent build

.PHONY: site-versions
site-versions: site/node_modules/.package-lock.json ## Build the site with the documentation of every release (git tags) into dist/site
	@npm --prefix site run --silent build-versions

.PHONY: site-test
ifeq ($(npm),)
site-test:
	@echo "site-test is left out: it needs Node.js and npm."
else
site-test: site ## Test the documentation site in a headless Chromium (left out without Node.js)
	@[ -n "$$CHROMIUM" ] || hack/debian.sh chromium
	@CHROMIUM=$${CHROMIUM:-$$(command -v chromium)} npm --prefix site test --silent
endif

# --- The source --------------------------------------------------------------

.PHONY: lint
lint: .build/golangci-lint .build/actionlint ## Check the source of all four Go modules, and the CI's workflows
	@status=0; for module in . traffic e2e tools; do (cd $$module && $(CURDIR)/.build/golangci-lint run --allow-parallel-runners) || status=1; done; \
		.build/actionlint || status=1; exit $$status

# Not a part of make test: the database of vulnerabilities is asked over the network (https://vuln.go.dev).
.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities in what the programs call, over the network
	@hack/build.sh .build/govulncheck tools/govulncheck golang.org/x/vuln/cmd/govulncheck
	@.build/govulncheck ./... && .build/govulncheck -C traffic ./...

# Not a part of make test: it downloads what only the tests of other modules import.
.PHONY: verify-tidy
verify-tidy: ## Fail when a go.mod or go.sum is not what `go mod tidy` writes, over the network
	@status=0; for module in $$(git ls-files '*go.mod' | xargs -n 1 dirname); do go -C $$module mod tidy -diff || status=1; done; exit $$status

.PHONY: generate
generate: ## Write all generated files again
	@hack/generate.sh

.PHONY: verify-generated
verify-generated: ## Fail when a generated file is out of date
	@hack/verify-generated.sh

.PHONY: modules
modules: ## After an update of a go.mod, raise the versions that the Go modules share, so that each package is compiled once
	@go -C tools run ./modules

.PHONY: golden
golden: ## Update the golden files of the tests; review the difference before you commit it
	@cd e2e && go test ./tests/golden -update
	@go test ./golden ./bundle ./cli/join ./cli/status ./cli/vaultside -update
	@cd e2e && go test ./tests/chart -update

.PHONY: picture
picture: servers ## Draw the dashboard in docs/pictures again, from a run of three minutes
	@cd e2e && go test -count=1 ./tests/monitoring -update

.build/golangci-lint: tools/go.mod
	@hack/build.sh $@ tools github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.build/actionlint: tools/actionlint/go.mod
	@hack/build.sh $@ tools/actionlint github.com/rhysd/actionlint/cmd/actionlint

.build/controller-gen: tools/go.mod
	@hack/build.sh $@ tools sigs.k8s.io/controller-tools/cmd/controller-gen

.build/crd-ref-docs: tools/crd-ref-docs/go.mod
	@hack/build.sh $@ tools/crd-ref-docs github.com/elastic/crd-ref-docs

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf .build bin dist

.PHONY: FORCE
FORCE:
