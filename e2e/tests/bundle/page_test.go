// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubectl"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// kubectlVariable makes this program act as kubectl.
const kubectlVariable = "BUNDLE_TEST_KUBECTL"

// block returns the block of docs/trust-bundles.md that contains a text.
func block(t *testing.T, contains string) string {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "trust-bundles.md"))
	must(t, err)
	for _, found := range regexp.MustCompile("(?s)```(?:yaml)?\n(.*?)```").FindAllSubmatch(page, -1) {
		if bytes.Contains(found[1], []byte(contains)) {
			return string(found[1])
		}
	}
	t.Fatalf("the page has no block with %q", contains)
	return ""
}

// The page's command and manifests distribute what istiod publishes within a cluster: by a ClusterTrustBundle, and by a real
// trust-manager.
func TestWithinACluster(t *testing.T) {
	ctx := t.Context()
	plane, err := controlplane.Start()
	must(t, err)
	t.Cleanup(func() { must(t, plane.Stop()) })
	clients, err := kubernetes.NewForConfig(plane.Config)
	must(t, err)
	for name, labels := range map[string]map[string]string{"cert-manager": nil, "plain": nil, "selected": {"example.com/mesh-roots": "true"}} {
		_, err := clients.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
		must(t, err)
	}
	cacerts, root := authority(t)
	istiod, err := istiodserver.Start(ctx, istiodserver.Options{Plane: plane, Namespace: namespace, CACerts: cacerts})
	must(t, err)
	t.Cleanup(func() { must(t, istiod.Stop()) })
	for _, name := range []string{namespace, "cert-manager"} {
		cluster.Within(t, time.Minute, "istiod publishes its root in "+name, func() error {
			_, err := istiod.PublishedRoot(ctx, name)
			return err
		})
	}

	kubeconfig, err := plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	shell(t, kubeconfig, block(t, "kind: ClusterTrustBundle"))
	stored, err := clients.CertificatesV1().ClusterTrustBundles().Get(ctx, "mesh-roots", metav1.GetOptions{})
	must(t, err)
	wantRoot(t, "the ClusterTrustBundle", stored.Spec.TrustBundle, root)

	startTrustManager(t, plane, kubeconfig)
	objects, err := manifest.Parse([]byte(block(t, "kind: Bundle")))
	must(t, err)
	api, err := client.New(plane.Config, client.Options{})
	must(t, err)
	must(t, api.Create(ctx, objects[0]))
	cluster.Within(t, time.Minute, "trust-manager copies the root", func() error {
		copied, err := clients.CoreV1().ConfigMaps("selected").Get(ctx, "mesh-roots", metav1.GetOptions{})
		if err == nil {
			wantRoot(t, "trust-manager's ConfigMap", copied.Data["roots.pem"], root)
		}
		return err
	})
	if _, err := clients.CoreV1().ConfigMaps("plain").Get(ctx, "mesh-roots", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it copies the root into a namespace without the label: %v", err)
	}
}

func wantRoot(t *testing.T, what, text string, root *testca.Certificate) {
	t.Helper()
	if !pool(t, text).Equal(pool(t, string(root.PEM()))) {
		t.Errorf("%s holds %q", what, text)
	}
}

// shell runs a block of the page.
func shell(t *testing.T, kubeconfig, text string) {
	t.Helper()
	tools := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", kubectlVariable, self)
	must(t, os.WriteFile(filepath.Join(tools, "kubectl"), []byte(script), 0o700))
	command := exec.CommandContext(t.Context(), "sh", "-e")
	command.Stdin = strings.NewReader(text)
	command.Env = append(os.Environ(), "PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig, "HOME="+tools)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", text, err, output)
	}
}

// beKubectl runs kubectl instead of the tests, if this program was started as it.
func beKubectl() {
	if os.Getenv(kubectlVariable) != "" {
		kubectl.Main()
	}
}

func startTrustManager(t *testing.T, plane *controlplane.ControlPlane, kubeconfig string) {
	t.Helper()
	program, err := built.TrustManager()
	must(t, err)
	crds, err := built.TrustManagerCRDs(t.Context())
	must(t, err)
	_, err = envtest.InstallCRDs(plane.Config, envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true})
	must(t, err)
	directory := t.TempDir()
	certificate := testca.Root("webhook")
	must(t, os.WriteFile(filepath.Join(directory, "tls.crt"), certificate.PEM(), 0o600))
	must(t, os.WriteFile(filepath.Join(directory, "tls.key"), certificate.KeyPEM(), 0o600))
	ports, err := process.FreePorts(3)
	must(t, err)
	// Its webhook, which only validates, is not registered.
	started, err := process.Start("trust-manager", exec.Command(program, "--kubeconfig", kubeconfig, "--leader-elect=false",
		"--webhook-host", "127.0.0.1", "--webhook-certificate-dir", directory, "--webhook-port", fmt.Sprint(ports[0]),
		"--metrics-port", fmt.Sprint(ports[1]), "--readiness-probe-port", fmt.Sprint(ports[2])))
	must(t, err)
	t.Cleanup(func() {
		_ = started.Stop(30 * time.Second)
		if t.Failed() {
			t.Log(started.Output())
		}
	})
}
