// SPDX-License-Identifier: Apache-2.0

// Package built returns the paths of the programs that the tests run. It builds the programs of this repository itself.
package built

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
)

// ControlPlane returns the paths of kube-apiserver and etcd: in KUBEBUILDER_ASSETS if it is set, else in the folder that
// `make control-plane` fills.
func ControlPlane() (apiserver, etcd string, err error) {
	apiserver, etcd, err = controlPlanePaths()
	if err != nil {
		return "", "", err
	}
	for _, path := range []string{apiserver, etcd} {
		if _, err := os.Stat(path); err != nil {
			return "", "", fmt.Errorf("no control plane to test against: %w; "+
				"build it with `make control-plane`, or point KUBEBUILDER_ASSETS at a folder that holds kube-apiserver and etcd", err)
		}
	}
	return apiserver, etcd, nil
}

func controlPlanePaths() (apiserver, etcd string, err error) {
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		return filepath.Join(assets, "kube-apiserver"), filepath.Join(assets, "etcd"), nil
	}
	root, err := Root()
	if err != nil {
		return "", "", err
	}
	kubernetes, err := required(root, "kubernetes", "k8s.io/kubernetes")
	if err != nil {
		return "", "", err
	}
	etcdVersion, err := required(root, "etcd", "go.etcd.io/etcd/server/v3")
	if err != nil {
		return "", "", err
	}
	return filepath.Join(root, ".build", "kubernetes-"+kubernetes, "kube-apiserver"),
		filepath.Join(root, ".build", "etcd-"+etcdVersion, "etcd"), nil
}

// Vault returns the path of the Vault that `make servers` builds.
func Vault() (string, error) { return server("vault", "github.com/hashicorp/vault", "vault") }

// WholeVault returns the path of the unmodified Vault that `make whole-vault` builds.
func WholeVault() (string, error) {
	return server("vault", "github.com/hashicorp/vault", "whole/vault")
}

// Istiod returns the path of the istiod that `make servers` builds.
func Istiod() (string, error) { return server("istio", "istio.io/istio", "pilot-discovery") }

// CertManager returns the paths of cert-manager's controller and cainjector that `make servers` builds.
func CertManager() (controller, cainjector string, err error) {
	const module = "github.com/cert-manager/cert-manager"
	if controller, err = server("cert-manager", module, "cert-manager-controller"); err != nil {
		return "", "", err
	}
	cainjector, err = server("cert-manager", module, "cert-manager-cainjector")
	return controller, cainjector, err
}

// ApproverPolicy returns the path of the approver-policy that `make servers` builds.
func ApproverPolicy() (string, error) {
	return server("approver-policy", "github.com/cert-manager/approver-policy", "approver-policy")
}

// TrustManager returns the path of the trust-manager that `make servers` builds.
func TrustManager() (string, error) {
	return server("trust-manager", "github.com/cert-manager/trust-manager", "trust-manager")
}

// CertManagerCRDs returns the folder of cert-manager's CRDs in Go's module cache.
func CertManagerCRDs(ctx context.Context) (string, error) { return moduleCRDs(ctx, "cert-manager") }

// ApproverPolicyCRDs returns the folder of approver-policy's.
func ApproverPolicyCRDs(ctx context.Context) (string, error) {
	return moduleCRDs(ctx, "approver-policy")
}

// TrustManagerCRDs returns the folder of trust-manager's.
func TrustManagerCRDs(ctx context.Context) (string, error) { return moduleCRDs(ctx, "trust-manager") }

func moduleCRDs(ctx context.Context, name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/cert-manager/"+name)
	download.Dir, download.Stderr = filepath.Join(root, "e2e", "binaries", name), os.Stderr
	output, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("looking for the module of %s: %w", name, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(output, &module); err != nil {
		return "", err
	}
	return filepath.Join(module.Dir, "deploy", "crds"), nil
}

// ControllerManager returns the path of the kube-controller-manager that `make node` builds.
func ControllerManager() (string, error) {
	return server("kubernetes", "k8s.io/kubernetes", "kube-controller-manager")
}

// Node holds the programs of a cluster with a node, and of the person who works with it.
type Node struct {
	Etcd, APIServer, ControllerManager, Scheduler string
	Kubelet, KubeProxy, Kubectl                   string
	Containerd, Shim, Ctr                         string
	// Helm, Istioctl and Plugin are the person's, with Kubectl.
	Helm, Istioctl, Plugin string
	// Images is the folder with the archives of container images.
	Images string
}

// NodePrograms returns the paths of what `make test-images client-programs` builds.
func NodePrograms() (Node, error) {
	var programs Node
	var err error
	if programs.APIServer, programs.Etcd, err = ControlPlane(); err != nil {
		return programs, err
	}
	for _, each := range []struct {
		path                  *string
		name, module, program string
	}{
		{&programs.ControllerManager, "kubernetes", "k8s.io/kubernetes", "kube-controller-manager"},
		{&programs.Scheduler, "kubernetes", "k8s.io/kubernetes", "kube-scheduler"},
		{&programs.Kubelet, "kubernetes", "k8s.io/kubernetes", "kubelet"},
		{&programs.KubeProxy, "kubernetes", "k8s.io/kubernetes", "kube-proxy"},
		{&programs.Kubectl, "kubernetes", "k8s.io/kubernetes", "kubectl"},
		{&programs.Containerd, "containerd", "github.com/containerd/containerd/v2", "containerd"},
		{&programs.Shim, "containerd", "github.com/containerd/containerd/v2", "containerd-shim-runc-v2"},
		{&programs.Ctr, "containerd", "github.com/containerd/containerd/v2", "ctr"},
		{&programs.Istioctl, "istio", "istio.io/istio", "istioctl"},
	} {
		if *each.path, err = server(each.name, each.module, each.program); err != nil {
			return programs, err
		}
	}
	root, err := Root()
	if err != nil {
		return programs, err
	}
	programs.Images = filepath.Join(root, ".build", "images")
	programs.Helm, programs.Plugin = filepath.Join(root, ".build", "helm", "helm"), filepath.Join(root, "bin", "kubectl-istiod_agent")
	return programs, nil
}

// server gives the path of a program that is built from the module pinned in
// e2e/binaries/<name>/go.mod.
func server(name, module, program string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	version, err := required(root, name, module)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".build", name+"-"+version, program)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no %s to test against: %w; build it with `make servers node`", program, err)
	}
	return path, nil
}

// required reads the version of a module out of e2e/binaries/<name>/go.mod, the
// one place where it is pinned.
func required(root, name, module string) (string, error) {
	file := filepath.Join(root, "e2e", "binaries", name, "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	match := regexp.MustCompile(`(?m)^(?:require)?\s+` + regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(content)
	if match == nil {
		return "", fmt.Errorf("%s does not require %s", file, module)
	}
	return string(match[1]), nil
}

// Webhook builds istiod-agent-webhook as it is shipped (static, stripped) and
// gives its path. Go's build cache makes this quick when nothing changed, and
// a stale binary is never tested.
func Webhook(ctx context.Context) (string, error) { return command(ctx, "istiod-agent-webhook") }

// Agent builds istiod-agent in the same way.
func Agent(ctx context.Context) (string, error) { return command(ctx, "istiod-agent") }

// Traffic builds istiod-agent-traffic in the same way.
func Traffic(ctx context.Context) (string, error) {
	return build(ctx, "traffic", "./cmd/istiod-agent-traffic")
}

// Plugin builds kubectl-istiod_agent and returns its path.
func Plugin(ctx context.Context) (string, error) { return command(ctx, "kubectl-istiod_agent") }

// Floor builds what the benchmark compares the webhook with, in the same way.
func Floor(ctx context.Context) (string, error) { return build(ctx, "e2e", "./cmd/bench/floor") }

func command(ctx context.Context, name string) (string, error) { return build(ctx, ".", "./cmd/"+name) }

func build(ctx context.Context, module, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".build", "e2e", filepath.Base(pkg))
	build := exec.CommandContext(ctx, filepath.Join(root, "hack", "build.sh"), path, module, pkg)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false -gcflags=all=-dwarf=false")
	build.Cancel = func() error { return build.Process.Signal(syscall.SIGTERM) } // it ends the compiler, and removes its files
	build.Stderr = os.Stderr                                                     // its progress, if it takes long, and the compiler's errors
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("building %s: %w", pkg, err)
	}
	return path, nil
}

// Root returns this repository's root: the nearest folder above the working directory that holds e2e/go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "e2e", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the istiod-agent repository")
		}
		dir = parent
	}
}
