// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/clitest"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// recorder is a Vault that notes who asks, and with what of the person's own.
type recorder struct {
	*httptest.Server
	redirect string // where it sends all requests but that for its health

	mu              sync.Mutex
	requests, token int
	leaked          []string
}

func newRecorder(t *testing.T, redirect string) *recorder {
	t.Helper()
	r := &recorder{redirect: redirect}
	r.Server = httptest.NewUnstartedServer(r)
	r.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	r.requests++
	for name, values := range request.Header {
		if text := strings.Join(values, " "); strings.Contains(text, "persons-own") {
			r.leaked = append(r.leaked, name+" for "+request.URL.Path)
		}
	}
	if len(request.TLS.PeerCertificates) > 0 {
		r.leaked = append(r.leaked, "a client certificate for "+request.URL.Path)
	}
	if request.Header.Get("X-Vault-Token") != "" {
		r.token++
	}
	r.mu.Unlock()
	switch {
	case request.URL.Path == "/v1/sys/health":
		fmt.Fprint(w, `{"initialized":true,"sealed":false,"version":"1.21.1"}`)
	case r.redirect != "":
		http.Redirect(w, request, r.redirect+request.URL.Path, http.StatusTemporaryRedirect)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[]}`)
	}
}

// apiServer has a VirtualMesh, and an istiod that publishes a root.
func apiServer(t *testing.T, vault, root string) (kubeconfig string) {
	t.Helper()
	mesh := virtualMesh(t, vault)
	published, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	group := map[string]any{
		"kind": "APIGroup", "apiVersion": "v1", "name": "networking.mesh.gloo.solo.io",
		"versions": []any{map[string]any{"groupVersion": "networking.mesh.gloo.solo.io/v1", "version": "v1"}},
	}
	apps := map[string]any{
		"kind": "APIGroup", "apiVersion": "v1", "name": "apps",
		"versions": []any{map[string]any{"groupVersion": "apps/v1", "version": "v1"}},
	}
	answers := map[string]any{
		"/version":                              map[string]any{"major": "1", "minor": "37", "gitVersion": "v1.37.2"},
		"/api":                                  map[string]any{"kind": "APIVersions", "versions": []any{"v1"}},
		"/api/v1":                               map[string]any{"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{map[string]any{"name": "configmaps", "namespaced": true, "kind": "ConfigMap"}}},
		"/api/v1/configmaps":                    map[string]any{"kind": "ConfigMapList", "apiVersion": "v1", "items": []any{map[string]any{"metadata": map[string]any{"name": "istio-ca-root-cert", "namespace": "istio-system"}, "data": map[string]any{"root-cert.pem": string(published)}}}},
		"/apis":                                 map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{group, apps}},
		"/apis/apps":                            apps,
		"/apis/apps/v1":                         map[string]any{"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": []any{map[string]any{"name": "deployments", "namespaced": true, "kind": "Deployment"}}},
		"/apis/apps/v1/deployments":             map[string]any{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": []any{map[string]any{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": map[string]any{"name": "istiod", "namespace": "istio-system"}}}},
		"/apis/networking.mesh.gloo.solo.io":    group,
		"/apis/networking.mesh.gloo.solo.io/v1": map[string]any{"kind": "APIResourceList", "groupVersion": "networking.mesh.gloo.solo.io/v1", "resources": []any{map[string]any{"name": "virtualmeshes", "namespaced": true, "kind": "VirtualMesh"}}},
		"/apis/networking.mesh.gloo.solo.io/v1/virtualmeshes":                                   map[string]any{"kind": "VirtualMeshList", "apiVersion": "networking.mesh.gloo.solo.io/v1", "items": []any{mesh}},
		"/apis/networking.mesh.gloo.solo.io/v1/namespaces/gloo-mesh/virtualmeshes/virtual-mesh": mesh,
	}
	answers["/api/v1/namespaces/istio-system/configmaps"] = answers["/api/v1/configmaps"]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, known := answers[r.URL.Path]
		if !known {
			w.WriteHeader(http.StatusNotFound)
			answer = map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return clitest.Write(t, filepath.Join(t.TempDir(), "kubeconfig"), `apiVersion: v1
kind: Config
current-context: one
contexts: [{name: one, context: {cluster: one, user: one}}]
clusters: [{name: one, cluster: {server: "`+server.URL+`"}}]
users: [{name: one, user: {token: persons-own-kubernetes}}]
`)
}

func virtualMesh(t *testing.T, vault string) map[string]any {
	t.Helper()
	return clitest.Parse(t, `apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: gloo-mesh}
spec:
  mtlsConfig:
    shared:
      intermediateCertificateAuthority:
        vault:
          server: `+vault+`
          caPath: pki/root/sign-intermediate
          kubernetesAuth: {role: istiod, audience: vault}
  meshes: [{name: istiod-istio-system-cluster-1}]
`)
}

// What is the person's own (the token, headers, a client certificate) goes to their own address alone: not to a server that
// a VirtualMesh in the cluster names, and not where such a server, or their own, redirects.
func TestTheTokenGoesToThePersonsOwnAddressAlone(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	clitest.Write(t, filepath.Join(dir, ".vault-token"), "persons-own-file")
	certificate, key := clientCertificate(t, dir)
	for name, value := range map[string]string{
		"VAULT_TOKEN": "persons-own-token", "VAULT_NAMESPACE": "persons-own-namespace", "VAULT_HEADERS": `{"Authorization": "Bearer persons-own-header"}`,
		"VAULT_CLIENT_CERT": certificate, "VAULT_CLIENT_KEY": key, "VAULT_SKIP_VERIFY": "true", "VAULT_ADDR": "", "VAULT_AGENT_ADDR": "",
	} {
		t.Setenv(name, value)
	}
	for name, test := range map[string]struct {
		arguments []string
		// anonymous commands need no token anywhere.
		anonymous bool
		// file commands read a VirtualMesh by -f; others by its name or by themselves.
		noFile bool
	}{
		"check":              {arguments: []string{"check", "--vault"}},
		"verify":             {arguments: []string{"verify", "--vault"}, anonymous: true},
		"rotate-root":        {arguments: []string{"rotate-root", "trust-both", "--vault", "--dry-run"}, anonymous: true},
		"vault":              {arguments: []string{"vault"}, anonymous: true},
		"vault --dry-run":    {arguments: []string{"vault", "--dry-run"}},
		"vault --apply":      {arguments: []string{"vault", "--apply", "--force"}},
		"status":             {arguments: []string{"status"}, anonymous: true, noFile: true},
		"renew":              {arguments: []string{"renew", "--all", "--wait=false"}, anonymous: true, noFile: true},
		"rotate-root, where": {arguments: []string{"rotate-root"}, anonymous: true, noFile: true},
	} {
		for _, way := range []string{"cluster", "VAULT_ADDR", "file", "VAULT_ADDR redirects", "file redirects"} {
			if strings.HasPrefix(way, "file") && test.noFile {
				continue
			}
			t.Run(name+", "+way, func(t *testing.T) {
				foreign := newRecorder(t, "")
				own := newRecorder(t, "")
				if strings.HasSuffix(way, "redirects") {
					own.redirect = foreign.URL
				}
				arguments := append(append([]string{}, test.arguments...), "--kubeconfig", apiServer(t, foreign.URL, certificate))
				switch {
				case strings.HasPrefix(way, "file"):
					mesh, err := json.Marshal(virtualMesh(t, own.URL))
					if err != nil {
						t.Fatal(err)
					}
					arguments = append(arguments, "-f", clitest.Write(t, filepath.Join(t.TempDir(), "mesh.yaml"), string(mesh)))
				case arguments[0] == "vault":
					arguments = append(arguments, "virtual-mesh", "-n", "gloo-mesh")
				}
				if strings.HasPrefix(way, "VAULT_ADDR") {
					t.Setenv("VAULT_ADDR", own.URL)
				}
				var out bytes.Buffer
				code := cli.Run(t.Context(), arguments, strings.NewReader(""), &out, &out)
				if len(foreign.leaked) > 0 {
					t.Errorf("a server that is not the person's gets %q", foreign.leaked)
				}
				if strings.Contains(out.String(), "persons-own-t") {
					t.Error("the token is printed")
				}
				if strings.HasSuffix(way, "redirects") && foreign.requests > 0 {
					t.Errorf("a redirect to another host is followed, exit code %d:\n%s", code, &out)
				}
				switch {
				case test.anonymous && own.token > 0:
					t.Errorf("the token is sent, and not needed:\n%s", &out)
				case !test.anonymous && way != "cluster" && own.token == 0:
					t.Errorf("the person's own Vault is not asked with the token, exit code %d:\n%s", code, &out)
				case !test.anonymous && way == "cluster" && !strings.Contains(out.String(), "export VAULT_ADDR="+foreign.URL):
					t.Errorf("what to do is not said, exit code %d:\n%s", code, &out)
				}
				// That the commands come as far as Vault at all.
				if asked := foreign.requests + own.requests; (asked == 0) != (test.noFile || name == "vault" || way == "cluster" && strings.HasPrefix(name, "vault")) {
					t.Errorf("Vault is asked %d times, exit code %d:\n%s", asked, code, &out)
				}
			})
		}
	}
}

func clientCertificate(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	client := testca.Root("root")
	certificate, key = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	for file, content := range map[string][]byte{certificate: client.PEM(), key: client.KeyPEM()} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
