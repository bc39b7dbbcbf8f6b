// SPDX-License-Identifier: Apache-2.0

// Package agents runs the agent as local processes: what the injected init container and sidecar are in a
// Pod, with the rights of istiod's service account, a real API server and a real Vault.
package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// ServiceAccount is istiod's, as today's charts call it.
const ServiceAccount = "istiod"

// role is all that the agent uses of the API server's, in istiod's namespace.
const role = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: istiod-agent}
rules:
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [get, list, watch]
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: [istiod]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: istiod-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: istiod-agent}
subjects:
- {kind: ServiceAccount, name: istiod, namespace: NAMESPACE}
`

// Pod is where one istiod's agent runs: what a Pod gives its containers.
type Pod struct {
	Name, Namespace string
	// CACerts is the volume that istiod and the agent share.
	CACerts string
	// Kubeconfig has the rights of istiod's service account.
	Kubeconfig string
	// TokenFile holds the service account's token.
	TokenFile string
	// IstiodAddress is istiod's TLS port.
	IstiodAddress string
	// Env is set besides the guide's variables.
	Env []string

	program  string
	injected []string
}

// Install puts the CRDs into a cluster, and returns when their objects can be written.
func Install(ctx context.Context, c *cluster.Cluster) error {
	root, err := built.Root()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "config", "crd", "*_*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := apply(ctx, c, string(content), ""); err != nil {
			return err
		}
	}
	for _, kind := range []schema.GroupVersionKind{
		certificatesv1.GroupVersion.WithKind(certificatesv1.Kind + "List"),
		certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind + "List"),
		networkingv1.GroupVersion.WithKind(networkingv1.Kind + "List"),
	} {
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(kind)
		if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			return c.List(ctx, all) == nil, nil
		}); err != nil {
			return fmt.Errorf("waiting until a %s can be had: %w", kind.Kind, err)
		}
	}
	return nil
}

// Grant gives istiod's service account of a namespace the rights that the agent uses.
func Grant(ctx context.Context, c *cluster.Cluster, namespace string) error {
	return apply(ctx, c, strings.ReplaceAll(role, "NAMESPACE", namespace), namespace)
}

// NewPod makes a Pod's surroundings: istiod's service account with the agent's rights, its token and its
// kubeconfig, below dir.
func NewPod(ctx context.Context, c *cluster.Cluster, namespace, name, cacerts, dir string) (*Pod, error) {
	program, err := built.Agent(ctx)
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	if err != nil {
		return nil, err
	}
	if err := serviceaccount.Ensure(ctx, clients, namespace, ServiceAccount); err != nil {
		return nil, err
	}
	if err := Grant(ctx, c, namespace); err != nil {
		return nil, err
	}
	p := &Pod{Name: name, Namespace: namespace, CACerts: cacerts, program: program, TokenFile: filepath.Join(dir, name+".token")}
	user, groups := controlplane.ServiceAccount(namespace, ServiceAccount)
	if p.Kubeconfig, err = c.Plane.Kubeconfig(user, groups...); err != nil {
		return nil, err
	}
	token, err := serviceaccount.Token(ctx, clients, namespace, ServiceAccount)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.TokenFile, []byte(token), 0o600); err != nil {
		return nil, err
	}
	// No kubelet runs it; that it is there is what counts: the reports of Pods that are not are taken away.
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod"},
			Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
		},
		Spec: corev1.PodSpec{ServiceAccountName: ServiceAccount, Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
	}
	return p, client.IgnoreAlreadyExists(c.Create(ctx, object))
}

func apply(ctx context.Context, c *cluster.Cluster, content, namespace string) error {
	objects, err := manifest.Parse([]byte(content))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if namespace != "" {
			object.SetNamespace(namespace)
		}
		if _, err := c.ServerSideApply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// Certificate is an IssuedCertificate for a Pod's istiod, with Vault as the guide sets it up.
func (p *Pod) Certificate(vault string, change func(vault, certOptions map[string]any)) *unstructured.Unstructured {
	authority := map[string]any{
		"server": vault, "caPath": "pki/root/sign-intermediate", "csrPath": "pki_int/intermediate/generate/exported",
		"kubernetesAuth": map[string]any{"role": "gen-int-ca-istio"},
	}
	options := map[string]any{}
	if change != nil {
		change(authority, options)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": "istiod-istio-system-cluster-1", "namespace": p.Namespace},
		"spec": map[string]any{
			"hosts":       []any{"spiffe://cluster.local/ns/" + p.Namespace + "/sa/" + ServiceAccount},
			"certOptions": options,
			"agentCa":     map[string]any{"vault": authority},
		},
	}}
}

// Renew is `kubectl annotate issuedcertificate NAME istiod-agent.io/renew=VALUE --overwrite`.
func Renew(ctx context.Context, c *cluster.Cluster, certificate *unstructured.Unstructured, value string) error {
	return Annotate(ctx, c, certificate, certificatesv1.RenewAnnotation, value)
}

// Annotate is `kubectl annotate issuedcertificate NAME KEY=VALUE --overwrite`.
func Annotate(ctx context.Context, c *cluster.Cluster, certificate *unstructured.Unstructured, key, value string) error {
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, key, value))
	return c.Patch(ctx, certificate.DeepCopy(), patch)
}

// Inject has the Pod's processes run with the environment of an injected container, as the kubelet would give
// it to them, in place of the guide's.
func (p *Pod) Inject(container corev1.Container) error {
	fields := map[string]string{"metadata.name": p.Name, "metadata.namespace": p.Namespace, "spec.serviceAccountName": ServiceAccount}
	p.injected = []string{}
	for _, variable := range container.Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil {
			if from.FieldRef == nil || fields[from.FieldRef.FieldPath] == "" {
				return fmt.Errorf("environment variable %s is of a kind that is not expected", variable.Name)
			}
			value = fields[from.FieldRef.FieldPath]
		}
		p.injected = append(p.injected, variable.Name+"="+value)
	}
	return nil
}

// Command is one of the agent's two, as its container runs it.
func (p *Pod) Command(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, p.program, arguments...)
	command.Env = p.injected
	if command.Env == nil {
		command.Env = []string{"PILOT_CERT_PROVIDER=istiod", "POD_NAME=" + p.Name, "POD_NAMESPACE=" + p.Namespace, "SERVICE_ACCOUNT=" + ServiceAccount}
	}
	command.Env = append(append(command.Env,
		// What stands at fixed places in a Pod, and elsewhere here.
		"KUBECONFIG="+p.Kubeconfig, "ISTIOD_AGENT_CACERTS_DIR="+p.CACerts, "ISTIOD_AGENT_TOKEN_FILE="+p.TokenFile,
		"ISTIOD_AGENT_TOKEN_FILE_ANYWHERE=true",
		"ISTIOD_AGENT_LOG_FORMAT=text",
	), p.Env...)
	return command
}

// Init runs the init container to its end and gives what it wrote.
func (p *Pod) Init(ctx context.Context, arguments ...string) (string, error) {
	output, err := p.Command(ctx, append([]string{"init-container"}, arguments...)...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("init-container: %w:\n%s", err, output)
	}
	return string(output), nil
}

// Sidecar is a running one.
type Sidecar struct {
	*process.Process
	address string
}

// Sidecar starts the sidecar, and returns once its health port answers.
func (p *Pod) Sidecar(ctx context.Context, arguments ...string) (*Sidecar, error) {
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(ports[0])
	arguments = append([]string{"sidecar", "--port", port}, arguments...)
	if p.IstiodAddress != "" {
		arguments = append(arguments, "--istiod-address", p.IstiodAddress)
	}
	started, err := process.Start("istiod-agent", p.Command(context.WithoutCancel(ctx), arguments...))
	if err != nil {
		return nil, err
	}
	s := &Sidecar{Process: started, address: "127.0.0.1:" + port}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := started.WaitUntil(ctx, "/healthz answers", func(ctx context.Context) error { _, err := s.Get(ctx, "/healthz"); return err }); err != nil {
		return nil, errors.Join(err, started.Kill())
	}
	return s, nil
}

// Get is what a path of the health port answers. Anything but 200 is an error.
func (s *Sidecar) Get(ctx context.Context, path string) (string, error) {
	return process.Get(ctx, "http://"+s.address+path)
}

// Metric gives the value of a metric, written as in the exposition format with all its labels; 0 when it is not there.
func (s *Sidecar) Metric(ctx context.Context, name string) (float64, error) {
	text, err := s.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, nil
}
