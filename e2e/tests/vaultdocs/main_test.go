// SPDX-License-Identifier: Apache-2.0

package vaultdocs_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/tests/vaultdocs"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

const (
	// namespace is the page's: the control plane is this package's alone.
	namespace = "istio-system"
	// apiServer stands in the place of an IP address, at whose port 443 nothing can listen here. It is a name in
	// the API server's certificate that Go asks a proxy for, unlike "localhost".
	apiServer = "localhost."
	// reviewer is the namespace and the service account of Vault.
	reviewer = "vault"
	// mounted is where the kubelet puts a service account's files.
	mounted = "/var/run/secrets/kubernetes.io/serviceaccount"
	// backdated is how long before its signing a certificate of Vault's begins.
	backdated = 30 * time.Second
)

// exceptions are the lines that the test does not run, with the reason.
var exceptions = map[string]string{
	`kubectl get cm -n bookinfo istio-ca-root-cert -ojson | jq -r  '.data["root-cert.pem"]' | diff root-cert.pem -`: "needs istiod: e2e/tests/renewal and e2e/cmd/demo compare that ConfigMap with Vault's root",
}

// expectedWarnings are parts of Vault's warnings about correct commands.
var expectedWarnings = []string{
	"authority information access",               // nothing looks for issuers or revocation lists by URL
	"lacked an issuer with CRL Signing KeyUsage", // openssl's root has no key usages: no revocation list
	"does not have an audience configured",       // the guide's role, which is why the safer one has
}

// page is docs/vault.md.
type page struct {
	blocks map[string]string
	ran    sync.Map // the names of blocks
}

// way is a way through the page, with a Vault and a working folder.
type way struct {
	*vaultdocs.Shell
	*page
	vault *vaultserver.Server
	pod   *agents.Pod
}

func (p *page) start(t *testing.T, options vaultserver.Options) *vaultserver.Server {
	t.Helper()
	var vault *vaultserver.Server
	t.Run("a Vault starts", func(inner *testing.T) {
		// Vault alone gets the variables: they go with this subtest.
		for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
			inner.Setenv(name, proxy(t))
		}
		inner.Setenv("NO_PROXY", "")
		inner.Setenv("no_proxy", "")
		var err error
		vault, err = vaultserver.Start(inner.Context(), options)
		must(inner, err)
	})
	if vault == nil {
		t.FailNow()
	}
	t.Cleanup(func() { must(t, vault.Stop()) })
	return vault
}

// proxy makes the API server reachable for Vault at https://<apiServer>:443.
func proxy(t *testing.T) string {
	t.Helper()
	target, err := url.Parse(shared.Plane.Config.Host)
	must(t, err)
	host := target.Host
	if host == "" { // it has no scheme
		host = shared.Plane.Config.Host
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != apiServer+":443" {
			http.Error(w, "only the API server is here", http.StatusForbidden)
			return
		}
		out, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer out.Close()
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		_, _ = io.Copy(in, out)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// newWay returns a shell with what the page assumes: Vault's command line with the root token, the agent's program, and the
// files and variables of Vault's Pod.
func newWay(t *testing.T, p *page, vault *vaultserver.Server, account string, audiences ...string) *way {
	t.Helper()
	ctx := t.Context()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	dir := t.TempDir()
	w := &way{page: p, vault: vault}
	w.pod, err = agents.NewPod(ctx, shared, namespace, "istiod-0", istiodserver.TmpfsDir(t), dir)
	must(t, err)
	must(t, serviceaccount.Ensure(ctx, clients, namespace, account))

	files := map[string]string{"reviewer": token(t, clients, reviewer, reviewer), "ca.crt": string(shared.Plane.Config.CAData)}
	work := filepath.Join(dir, "work")
	must(t, os.Mkdir(work, 0o700))
	files["work/token"] = token(t, clients, namespace, account, audiences...)
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	w.Shell = &vaultdocs.Shell{
		Dir:       work,
		Variables: map[string]string{"KUBERNETES_PORT_443_TCP_ADDR": apiServer},
		Paths: map[string]string{
			mounted + "/token":  filepath.Join(dir, "reviewer"),
			mounted + "/ca.crt": filepath.Join(dir, "ca.crt"),
			"/dev/shm/cacerts":  filepath.Join(istiodserver.TmpfsDir(t), "cacerts"),
		},
		Skip: func(line string) bool {
			reason := exceptions[line]
			if reason != "" {
				t.Logf("skipped, %s: %s", reason, line)
			}
			return reason != ""
		},
	}
	agent, err := built.Agent(ctx)
	must(t, err)
	cli := &vaultdocs.CLI{Client: vault.Client, Read: w.Read, Warning: func(warning string) {
		for _, expected := range expectedWarnings {
			if strings.Contains(warning, expected) {
				return
			}
		}
		t.Errorf("Vault warns: %s", warning)
	}, Pod: map[string]string{"token_reviewer_jwt": files["reviewer"], "kubernetes_ca_cert": files["ca.crt"]}}
	w.Commands = map[string]func(context.Context, vaultdocs.Call) (string, error){
		"vault":   cli.Run,
		"openssl": w.OpenSSL,
		"kubectl": (&vaultdocs.Kubectl{Client: clients, Read: w.Read}).Run,
		"cat": func(ctx context.Context, call vaultdocs.Call) (string, error) {
			return w.External(ctx, "cat", nil, call)
		},
		"mkdir": func(ctx context.Context, call vaultdocs.Call) (string, error) {
			return w.External(ctx, "mkdir", nil, call)
		},
		"rm": func(ctx context.Context, call vaultdocs.Call) (string, error) {
			return w.External(ctx, "rm", nil, call)
		},
		"istiod-agent": func(ctx context.Context, call vaultdocs.Call) (string, error) {
			return w.External(ctx, agent, nil, call) // no Pod's variables, no API server
		},
	}
	return w
}

func token(t *testing.T, clients kubernetes.Interface, namespace, account string, audiences ...string) string {
	t.Helper()
	token, err := serviceaccount.Token(t.Context(), clients, namespace, account, audiences...)
	must(t, err)
	return token
}

// allowReview grants Vault's service account the rights of Vault's chart.
func allowReview(t *testing.T) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(t.Context(), clients, reviewer, reviewer))
	must(t, shared.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "vault-server-binding"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: reviewer, Name: reviewer}},
	}))
}

// run runs a block verbatim.
func (w *way) run(t *testing.T, name string) {
	t.Helper()
	script, ok := w.blocks[name]
	if !ok {
		t.Fatalf("docs/vault.md has no block %q", name)
	}
	if err := w.Run(t.Context(), script); err != nil {
		t.Fatalf("docs/vault.md, %s: %v", name, err)
	}
	w.ran.Store(name, true)
}

// specify writes a sample to issuedcertificate.yaml, for this Vault's address.
func (w *way) specify(t *testing.T, sample string, change func(vault map[string]any)) *unstructured.Unstructured {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", sample))
	must(t, err)
	objects, err := manifest.Parse(content)
	must(t, err)
	if len(objects) != 1 {
		t.Fatalf("%s holds %d objects", sample, len(objects))
	}
	vault, found, err := unstructured.NestedMap(objects[0].Object, "spec", "agentCa", "vault")
	must(t, err)
	if !found {
		t.Fatalf("%s has no agentCa.vault", sample)
	}
	vault["server"] = w.vault.Address
	if w.vault.CA != nil {
		vault["caBundle"] = base64.StdEncoding.EncodeToString(w.vault.CA)
	}
	if change != nil {
		change(vault)
	}
	must(t, unstructured.SetNestedMap(objects[0].Object, vault, "spec", "agentCa", "vault"))
	content, err = yaml.Marshal(objects[0].Object)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.Dir, "issuedcertificate.yaml"), content, 0o600))
	return objects[0]
}

// pin adds trustedRoots to a specification by a block of YAML of the page, and grants istiod the right that it needs.
func (w *way) pin(t *testing.T, certificate *unstructured.Unstructured, block string) {
	t.Helper()
	w.ran.Store(block, true)
	var example struct {
		CA certificatesv1.IntermediateCertificateAuthority `json:"intermediateCertificateAuthority"`
	}
	must(t, yaml.UnmarshalStrict([]byte(w.blocks[block]), &example))
	ref := example.CA.TrustedRoots.ConfigMapRef
	content, err := os.ReadFile(filepath.Join(w.Dir, "root-cert.pem"))
	must(t, err)
	at := metav1.ObjectMeta{Name: ref.Name, Namespace: namespace}
	must(t, shared.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: at, Data: map[string]string{ref.Key: string(content)}}))
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{ref.Name}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: at,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: ref.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: agents.ServiceAccount}},
	}))
	roots, err := runtime.DefaultUnstructuredConverter.ToUnstructured(example.CA.TrustedRoots)
	must(t, err)
	pinned := certificate.DeepCopy()
	must(t, unstructured.SetNestedMap(pinned.Object, roots, "spec", "agentCa", "trustedRoots"))
	_, err = shared.ServerSideApply(t.Context(), pinned)
	must(t, err)
}

// issue runs the init container of a new Pod, and expects a certificate of that lifetime under the root that the page saves.
func (w *way) issue(t *testing.T, lifetime time.Duration, arguments ...string) (output string) {
	t.Helper()
	w.pod.CACerts = istiodserver.TmpfsDir(t)
	output, err := w.pod.Init(t.Context(), arguments...)
	must(t, err)
	certificate := parse(t, filepath.Join(w.pod.CACerts, "ca-cert.pem"))
	if got := certificate.NotAfter.Sub(certificate.NotBefore) - backdated; got.Round(time.Minute) != lifetime {
		t.Errorf("the certificate lives %s, want %s", got, lifetime)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, filepath.Join(w.Dir, "root-cert.pem")))
	_, err = certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	must(t, err)
	return output
}

// login returns the TTL of a login of the Pod's service account with a role.
func (w *way) login(t *testing.T, role string) time.Duration {
	t.Helper()
	jwt, err := w.Read("token")
	must(t, err)
	client, err := w.vault.NewClient("")
	must(t, err)
	answer, err := client.Logical().WriteWithContext(t.Context(), "auth/kubernetes/login", map[string]any{"role": role, "jwt": jwt})
	must(t, err)
	return time.Duration(answer.Auth.LeaseDuration) * time.Second
}

func parse(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatalf("%s is not PEM", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return certificate
}
