// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"maps"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

var rounds = flag.Int("rounds", 60, "how many random specifications the agent is given")

// pod is the file system of an agent's container, with istiod's rights in Istio's chart, which include all Secrets.
type pod struct {
	root, namespace string
	host, port      string
	// secrets are all that must not leave, by what they are; tokens are those that may, to a server that is allowed.
	secrets          map[string]string
	apiToken, vaults string
}

func newPod(t *testing.T) *pod {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the agent's file system is made by chroot, which needs root")
	}
	ctx := t.Context()
	must(t, agents.Install(ctx, shared))
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	p := &pod{root: t.TempDir(), namespace: shared.Namespace(t, false), secrets: map[string]string{}}
	address, err := url.Parse(shared.Plane.Config.Host)
	must(t, err)
	if address.Host == "" {
		address = &url.URL{Host: shared.Plane.Config.Host}
	}
	p.host, p.port = address.Hostname(), address.Port()
	for _, account := range []string{agents.ServiceAccount, "reader"} {
		must(t, serviceaccount.Ensure(ctx, clients, p.namespace, account))
	}
	must(t, shared.Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: p.namespace},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch"}}},
	}))
	must(t, shared.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: p.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: p.namespace},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: agents.ServiceAccount}},
	}))
	token := func(account string, audiences ...string) string {
		t.Helper()
		issued, err := serviceaccount.Token(ctx, clients, p.namespace, account, audiences...)
		must(t, err)
		return issued
	}

	program, err := built.Agent(ctx)
	must(t, err)
	content, err := os.ReadFile(program)
	must(t, err)
	p.write(t, "istiod-agent", string(content))
	must(t, os.Chmod(filepath.Join(p.root, "istiod-agent"), 0o755))
	p.apiToken, p.vaults = token(agents.ServiceAccount), token(agents.ServiceAccount, "vault")
	const account = "var/run/secrets/kubernetes.io/serviceaccount"
	p.write(t, account+"/token", p.apiToken)
	p.write(t, account+"/ca.crt", string(shared.Plane.Config.CAData))
	p.write(t, account+"/namespace", p.namespace)
	p.write(t, "var/run/secrets/istiod-agent.io/vault/token", p.vaults)

	p.secret(t, "istiod's CA key", "etc/cacerts/ca-key.pem", newKey(t))
	p.secret(t, "a key below the tokens", "var/run/secrets/istiod/tls/tls.key", newKey(t))
	p.secret(t, "the environment of a process", "proc/self/environ", "AWS_SECRET_ACCESS_KEY=0123456789abcdef0123456789abcdef")
	p.secret(t, "a token elsewhere", "etc/tokens/token", token("reader"))
	must(t, os.Symlink("../../../etc/tokens/token", filepath.Join(p.root, "var/run/secrets/link")))

	p.stored(t, "kube-system", "Vault's token of another namespace", corev1.SecretTypeOpaque, "hvs.another-namespaces-token-0123456789")
	p.stored(t, p.namespace, "a token of istio-reader", corev1.SecretTypeServiceAccountToken, token("reader", "https://other"))
	p.stored(t, p.namespace, "a token in an ordinary Secret", corev1.SecretTypeOpaque, token("reader", "https://another"))
	return p
}

func (p *pod) write(t *testing.T, path, content string) {
	t.Helper()
	at := filepath.Join(p.root, path)
	must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	must(t, os.WriteFile(at, []byte(content), 0o600))
}

// secret is a file that must not be sent.
func (p *pod) secret(t *testing.T, what, path, content string) {
	t.Helper()
	p.secrets[what] = content
	p.write(t, path, content)
}

// stored creates a Secret that must not be sent, with a name after its purpose.
func (p *pod) stored(t *testing.T, namespace, what string, kind corev1.SecretType, token string) {
	t.Helper()
	p.secrets[what] = token
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secretName(what), Annotations: map[string]string{corev1.ServiceAccountNameKey: "reader"}},
		Type:       kind, StringData: map[string]string{"token": token},
	}
	must(t, shared.Create(t.Context(), secret))
	t.Cleanup(func() { _ = shared.Delete(context.WithoutCancel(t.Context()), secret) })
}

func secretName(what string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(what))
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// try runs the agent with a specification until it has used or refused it.
func (p *pod) try(t *testing.T, vault map[string]any, arguments ...string) string {
	t.Helper()
	specification, err := json.Marshal(map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate", "metadata": map[string]any{"name": "hostile"},
		"spec": map[string]any{
			"hosts":       []any{"spiffe://cluster.local/ns/" + p.namespace + "/sa/" + agents.ServiceAccount},
			"certOptions": map[string]any{"ecKeyCurve": "P-256"},
			"agentCa":     map[string]any{"vault": vault},
		},
	})
	must(t, err)
	p.write(t, "specification.json", string(specification))
	must(t, os.MkdirAll(filepath.Join(p.root, "published"), 0o755))
	command := exec.CommandContext(t.Context(), "chroot", append([]string{
		p.root, "/istiod-agent", "init-container", "--spec", "/specification.json", "--cacerts-dir", "/published", "--allow-disk", "--log-format", "text",
	}, arguments...)...)
	command.Env = []string{
		"POD_NAME=istiod-0", "POD_NAMESPACE=" + p.namespace, "SERVICE_ACCOUNT=" + agents.ServiceAccount,
		"KUBERNETES_SERVICE_HOST=" + p.host, "KUBERNETES_SERVICE_PORT=" + p.port, "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	}
	running, err := process.Start("istiod-agent", command)
	must(t, err)
	defer func() { must(t, running.Kill()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, running.WaitUntil(ctx, "it has tried", func(context.Context) error {
		for _, sign := range []string{"Failed to obtain a CA certificate", "reason=InvalidSpecification"} {
			if strings.Contains(running.Output(), sign) {
				return nil
			}
		}
		return errors.New("it has not")
	}))
	return running.Output()
}

// Attacks that once sent istiod's CA key to another server: nothing is sent, and the log holds the reason.
func TestHostileSpecifications(t *testing.T) {
	p, stranger := newPod(t), newRecorder(t)
	login := func(fields map[string]any) map[string]any {
		auth := map[string]any{"role": "istiod"}
		maps.Copy(auth, fields)
		return map[string]any{"server": stranger.URL, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": auth}
	}
	secret := func(namespace, what string) map[string]any {
		return map[string]any{"server": stranger.URL, "caPath": "pki/root/sign-intermediate", "tokenSecretRef": map[string]any{"namespace": namespace, "name": secretName(what)}}
	}
	other := func(field string, fields map[string]any) map[string]any {
		return map[string]any{"server": stranger.URL, "caPath": "pki/root/sign-intermediate", field: fields}
	}
	secretID := func(fields map[string]any) map[string]any {
		auth := map[string]any{"roleId": "istiod"}
		maps.Copy(auth, fields)
		return other("appRoleAuth", auth)
	}
	serverCA := func(key string, value any) map[string]any {
		vault := login(map[string]any{"audience": "vault"})
		vault[key] = value
		return vault
	}
	for name, test := range map[string]struct {
		vault     map[string]any
		arguments []string
		says      string
	}{
		"the token for Vault as a secret id":    {secretID(map[string]any{"secretIdLocalPath": "/var/run/secrets/istiod-agent.io/vault/token"}), nil, "it is a JWT"},
		"istiod's CA key as a secret id":        {secretID(map[string]any{"secretIdLocalPath": "/etc/cacerts/ca-key.pem"}), nil, "secretIdLocalPath"},
		"a mounted key as a secret id":          {secretID(map[string]any{"secretIdLocalPath": "/var/run/secrets/istiod/tls/tls.key"}), nil, "secretIdLocalPath"},
		"a Secret's token as a secret id":       {secretID(map[string]any{"secretIdSecretRef": map[string]any{"name": secretName("a token in an ordinary Secret"), "key": "token"}}), nil, "it is a JWT"},
		"the same as a wrapping token":          {secretID(map[string]any{"wrapped": true, "secretIdSecretRef": map[string]any{"name": secretName("a token in an ordinary Secret"), "key": "token"}}), nil, "it is a JWT"},
		"a secret id of another namespace":      {secretID(map[string]any{"secretIdSecretRef": map[string]any{"name": secretName("Vault's token of another namespace"), "namespace": "kube-system", "key": "token"}}), nil, "secretIdSecretRef.namespace"},
		"a JWT for the API server":              {other("jwtAuth", map[string]any{"role": "istiod", "audience": "https://kubernetes.default.svc.cluster.local"}), nil, "TokenUnavailable"},
		"a JWT without an audience":             {other("jwtAuth", map[string]any{"role": "istiod"}), nil, "jwtAuth.audience"},
		"a mounted key to log in with":          {other("certAuth", map[string]any{"certLocalPath": "/var/run/secrets/istiod/tls"}), nil, "certLocalPath"},
		"istiod's CA key as Vault's CA":         {serverCA("caLocalPath", "/etc/cacerts/ca-key.pem"), nil, "caLocalPath"},
		"a mounted key as Vault's CA":           {serverCA("caLocalPath", "/var/run/secrets/istiod/tls/tls.key"), nil, "VaultCAUnavailable"},
		"a link as Vault's CA":                  {serverCA("caLocalPath", "/var/run/secrets/link"), nil, "a symbolic link leads out"},
		"a Secret's token as Vault's CA":        {serverCA("caSecretRef", map[string]any{"name": secretName("a token in an ordinary Secret"), "key": "token"}), nil, "it contains no certificate"},
		"istiod's CA key":                       {login(map[string]any{"mountedSaPath": "/etc/cacerts", "secretTokenKey": "ca-key.pem"}), nil, "mountedSaPath"},
		"istiod's CA key, climbing":             {login(map[string]any{"mountedSaPath": "/var/run/secrets/../../../etc/cacerts", "secretTokenKey": "ca-key.pem"}), nil, "mountedSaPath"},
		"a process's environment":               {login(map[string]any{"mountedSaPath": "/proc/self", "secretTokenKey": "environ"}), nil, "mountedSaPath"},
		"a key that is mounted":                 {login(map[string]any{"mountedSaPath": "/var/run/secrets/istiod/tls", "secretTokenKey": "tls.key"}), nil, "is no JWT"},
		"a token behind a link":                 {login(map[string]any{"mountedSaPath": "/var/run/secrets/.", "secretTokenKey": "link"}), nil, "mountedSaPath"},
		"the API server's audience":             {login(map[string]any{"audience": "https://kubernetes.default.svc.cluster.local"}), nil, "TokenUnavailable"},
		"an audience without the right":         {login(map[string]any{"audience": "https://stranger.example.com"}), nil, "injection.agent.vaultToken.audience"},
		"a token of another account":            {login(map[string]any{"audience": "vault", "serviceAccountRef": map[string]any{"name": "reader"}}), nil, "may not request one of reader"},
		"a token of another namespace":          {login(map[string]any{"audience": "vault", "serviceAccountRef": map[string]any{"name": "default", "namespace": "kube-system"}}), nil, "serviceAccountRef.namespace"},
		"another namespace's Secret":            {secret("kube-system", "Vault's token of another namespace"), nil, "tokenSecretRef.namespace"},
		"a service account's Secret":            {secret("", "a token of istio-reader"), nil, "holds a service account's token"},
		"a service account's token in a Secret": {secret("", "a token in an ordinary Secret"), nil, "is a service account's token"},
		"a server that is not allowed":          {login(nil), []string{"--allowed-servers", "https://vault.example.com:8200"}, "injection.agent.allowedServers"},
	} {
		t.Run(name, func(t *testing.T) {
			output := p.try(t, test.vault, test.arguments...)
			if !strings.Contains(output, test.says) {
				t.Errorf("want %q in:\n%s", test.says, output)
			}
			received, requests, _ := stranger.take()
			if requests != 0 {
				t.Errorf("the stranger was sent %d requests, with %q in them", requests, holds(received, p.all()))
			}
			if found := holds(output, p.all()); len(found) > 0 {
				t.Errorf("the log holds %q", found)
			}
		})
	}
	t.Run("what is meant for Vault", func(t *testing.T) { // else all of the above says nothing
		p.try(t, login(map[string]any{"audience": "vault"}))
		received, _, _ := stranger.take()
		if found := holds(received, p.all()); !slices.Equal(found, []string{"the token for Vault"}) {
			t.Errorf("sent %q", found)
		}
	})
}

// all returns the secrets and the tokens.
func (p *pod) all() map[string]string {
	all := maps.Clone(p.secrets)
	all["the API server's token"], all["the token for Vault"] = p.apiToken, p.vaults
	return all
}

// With random specifications, hostile in every field, the agent never connects to a server that is not allowed, and sends an
// allowed one no key, no Secret, and no token for an audience other than the specification's.
func TestRandomSpecifications(t *testing.T) {
	p, stranger := newPod(t), newRecorder(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 1))
	// Mostly the usual value: where each field is hostile, validation refuses it all.
	one := func(usual any, others ...any) any {
		if random.IntN(5) > 0 {
			return usual
		}
		return others[random.IntN(len(others))]
	}
	authority := strings.TrimPrefix(stranger.URL, "http://")
	sent := 0
	for range *rounds {
		vault := map[string]any{
			"server": one(stranger.URL, stranger.URL+"/", "http://"+strings.ToUpper(authority), "http://vault.example.com@"+authority, stranger.URL+"/v1", "https://"+authority, stranger.URL+"?a", "http://vault.example.com:8200\\@"+authority),
			"caPath": one("pki/root/sign-intermediate", "/v1/pki/root/sign-intermediate", "pki/issuer/default/sign-intermediate", "../../etc/cacerts/root/sign-intermediate"),
		}
		if random.IntN(4) == 0 {
			vault["csrPath"] = one("pki_int/intermediate/generate/exported", "http://"+authority+"/intermediate/generate/exported")
		}
		if random.IntN(4) == 0 {
			vault["namespace"] = one("admin", "../..", "a\r\nX-Injected: 1", strings.Repeat("a", 4096))
		}
		audience := ""
		if random.IntN(6) == 0 {
			vault["caLocalPath"] = one("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "/etc/cacerts/ca-key.pem", "/var/run/secrets/istiod/tls/tls.key", "/var/run/secrets/link", "/proc/self/environ")
		}
		switch random.IntN(6) {
		case 0:
			auth := map[string]any{"roleId": one("istiod", "a b", ""), "wrapped": random.IntN(3) == 0}
			if random.IntN(2) == 0 {
				auth["secretIdLocalPath"] = one("/var/run/secrets/istiod-agent.io/vault/token", "/var/run/secrets/istiod/tls/tls.key", "/etc/cacerts/ca-key.pem", "/var/run/secrets/istiod-agent.io/../link", "/proc/self/environ")
			} else {
				auth["secretIdSecretRef"] = map[string]any{
					"name": one(secretName("a token in an ordinary Secret"), secretName("a token of istio-reader"), secretName("Vault's token of another namespace"), "cacerts"),
					"key":  one("token", "ca-key.pem", ""), "namespace": one("", "kube-system", p.namespace),
				}
			}
			vault["appRoleAuth"] = auth
		case 1:
			audience, _ = one("vault", "https://kubernetes.default.svc.cluster.local", "istio-ca", "a b").(string)
			vault["jwtAuth"] = map[string]any{"role": one("istiod", "a/b", ""), "audience": audience}
		case 2:
			vault["tokenSecretRef"] = map[string]any{
				"namespace": one("", p.namespace, "kube-system", "default"),
				"name":      one(secretName("a token in an ordinary Secret"), "cacerts", secretName("Vault's token of another namespace"), secretName("a token of istio-reader"), "../secrets/x"),
			}
		default:
			auth := map[string]any{"role": one("istiod", "a/b", "{{identity}}", "")}
			if random.IntN(2) == 0 {
				audience, _ = one("vault", "https://kubernetes.default.svc.cluster.local", "istio-ca", "a b").(string)
				auth["audience"] = audience
			}
			if random.IntN(2) == 0 {
				auth["mountedSaPath"] = one("/var/run/secrets/kubernetes.io/serviceaccount", "/etc/cacerts", "/proc/self", "/var/run/secrets", "/var/run/secrets/istiod/tls", "/var/run/secrets/kubernetes.io/serviceaccount/", "/etc/tokens", "/var/run/secrets/../../../etc/tokens", "/published", "/run/secrets", "")
				auth["secretTokenKey"] = one("token", "ca-key.pem", "tls.key", "environ", "..", "link", "ca.crt", "../../../etc/cacerts/ca-key.pem")
			}
			if random.IntN(6) == 0 {
				auth["serviceAccountRef"] = map[string]any{"name": one("istiod", "reader", "default"), "namespace": one("", p.namespace, "kube-system")}
			}
			if random.IntN(4) == 0 {
				auth["mountPath"] = one("/v1/auth/kubernetes", "auth/../sys", "/v1/auth/a?b=c")
			}
			vault["kubernetesAuth"] = auth
		}

		p.try(t, vault, "--allowed-servers", "https://vault.example.com:8200")
		if _, _, connections := stranger.take(); connections > 0 {
			t.Errorf("a server that is not allowed was connected to %d times by %v", connections, vault)
		}
		p.try(t, vault)
		received, requests, _ := stranger.take()
		if requests > 0 {
			sent++
		}
		if found := holds(received, p.secrets); len(found) > 0 {
			t.Errorf("sent %q by %v", found, vault)
		}
		if audience != "" && len(holds(received, map[string]string{"": p.apiToken})) > 0 {
			t.Errorf("sent the API server's token in place of one for %q by %v", audience, vault)
		}
	}
	if sent == 0 {
		t.Errorf("of %d specifications none was acted on: this shows nothing", *rounds)
	}
	t.Logf("%d of %d specifications were acted on", sent, *rounds)
}
