// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

const hundred = 100

// manyClusters serves one API server as a hundred clusters, each below a path of its own: a proxy gives each answer about the
// cluster's identity another UID and another name. All else is the API server's, so that each context costs what a cluster costs.
func manyClusters(t *testing.T, config *rest.Config) (server string, ca []byte) {
	t.Helper()
	target, err := url.Parse(config.Host)
	must(t, err)
	transport, err := rest.TransportFor(config)
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			cluster, rest, _ := strings.Cut(strings.TrimPrefix(r.In.URL.Path, "/"), "/")
			r.Out.URL.Path = "/" + rest
			r.SetURL(target)
			r.Out.Header.Set("X-Cluster", cluster)
			r.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(response *http.Response) error {
			path, cluster := response.Request.URL.Path, response.Request.Header.Get("X-Cluster")
			identity := strings.HasSuffix(path, "/namespaces/kube-system") || strings.HasSuffix(path, "/deployments")
			if !identity || !strings.Contains(response.Header.Get("Content-Type"), "json") {
				return nil
			}
			content, err := io.ReadAll(response.Body)
			if err != nil {
				return err
			}
			var answer struct{ Metadata struct{ UID string } }
			if err := json.Unmarshal(content, &answer); err == nil && answer.Metadata.UID != "" {
				content = bytes.ReplaceAll(content, []byte(answer.Metadata.UID), []byte(cluster))
			}
			content = bytes.ReplaceAll(content, []byte(`"value":"the-cluster"`), fmt.Appendf(nil, `"value":%q`, cluster))
			response.Body = io.NopCloser(bytes.NewReader(content))
			response.ContentLength = int64(len(content))
			response.Header.Set("Content-Length", fmt.Sprint(len(content)))
			return nil
		},
	}
	front := httptest.NewUnstartedServer(proxy)
	front.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
}

// A dry run for a hundred clusters reads each, and plans 9,900 remote secrets.
func TestHundredClusters(t *testing.T) {
	ctx := t.Context()
	s := &side{Cluster: one, name: "the-cluster"}
	var err error
	s.clients, err = kubernetes.NewForConfig(one.Plane.Config)
	must(t, err)
	must(t, serviceaccount.EnsureNamespace(ctx, s.clients, namespace))
	s.deploy(t, map[string]string{"CLUSTER_ID": "the-cluster"})
	bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: namespace}, Data: map[string]string{"root-cert.pem": string(newRoot().PEM())}}
	_ = one.Delete(ctx, bundle) // of another test's istiod
	must(t, one.Create(ctx, bundle))
	t.Cleanup(func() { must(t, one.Delete(context.WithoutCancel(ctx), bundle)) })

	server, ca := manyClusters(t, one.Plane.Config)
	kubeconfig := clientcmdapi.NewConfig()
	arguments := []string{"join", "--dry-run"}
	for i := range hundred {
		name := fmt.Sprintf("cluster-%d", i)
		kubeconfig.Clusters[name] = &clientcmdapi.Cluster{Server: server + "/" + name, CertificateAuthorityData: ca}
		kubeconfig.AuthInfos[name] = &clientcmdapi.AuthInfo{}
		kubeconfig.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
		arguments = append(arguments, "--context="+name, "--api-server="+name+"=https://192.0.2."+fmt.Sprint(i)+":6443")
	}
	file := filepath.Join(t.TempDir(), "config")
	must(t, clientcmd.WriteToFile(*kubeconfig, file))
	program, err := built.Plugin(ctx)
	must(t, err)
	command := exec.CommandContext(ctx, program, append(arguments, "--kubeconfig", file)...)
	command.Env = append(os.Environ(), "NO_COLOR=1")
	begin := time.Now()
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %.2000s", err, output)
	}
	usage, _ := command.ProcessState.SysUsage().(*syscall.Rusage)
	t.Logf("%s, %d MiB", time.Since(begin).Round(time.Millisecond), usage.Maxrss>>10)
	if usage.Maxrss>>10 > 200 {
		t.Errorf("it takes %d MiB of memory", usage.Maxrss>>10)
	}
	if lines := strings.Count(string(output), "and 95 more would be created"); lines != hundred {
		t.Errorf("%d lines: %.2000s", lines, output)
	}
}
