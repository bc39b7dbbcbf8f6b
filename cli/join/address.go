// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/shell"
)

func trim(pem []byte) []byte { return bytes.TrimSpace(pem) }

// checkServer checks the URL of an API server for a kubeconfig.
func checkServer(text string) error {
	parsed, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is not a URL") // url.Error quotes it
	case parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "":
		return errors.New("expected https://HOST:PORT")
	}
	return nil
}

// loopback reports whether a Pod that connects to the URL reaches only itself.
func loopback(server string) bool {
	parsed, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(parsed.Hostname(), "."))
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost" || strings.HasSuffix(host, ".localhost")
	}
	return address.Unmap().IsLoopback() || address.IsUnspecified()
}

// addressAdvice is how to name another address of the API server.
func (s *clusterState) addressAdvice() string {
	advice := fmt.Sprintf("pass an address that Pods of the other clusters can reach, with --api-server %s=https://HOST:PORT", shell.Quote(s.Context))
	if len(s.Addresses) > 0 {
		advice += " (in the cluster's own network it is " + strings.Join(s.Addresses, ", ") + ")"
	}
	return advice
}

// usable returns why the address of a context's API server cannot be used in a remote secret, with the remedy.
func (s *clusterState) usable(given bool) error {
	switch err := checkServer(s.Address.Server); {
	case err != nil:
		return fmt.Errorf("istiod cannot use the server in the kubeconfig: %w; %s", err, s.addressAdvice())
	case s.Insecure:
		return errors.New("the kubeconfig has insecure-skip-tls-verify, so the identity of the API server is not verified; set certificate-authority-data instead")
	case loopback(s.Address.Server) && !given:
		return fmt.Errorf("the kubeconfig's server %s is an address of this machine, which no Pod can reach; %s", s.Address.Server, s.addressAdvice())
	}
	return nil
}

// parsePairs parses the values of a flag, CONTEXT=VALUE. A context's name may contain =, its value not, so the last one counts.
func parsePairs(flag, form string, values, contexts []string) (map[string]string, error) {
	pairs := map[string]string{}
	for _, value := range values {
		at := strings.LastIndexByte(value, '=')
		if at <= 0 || at == len(value)-1 {
			return nil, fmt.Errorf("--%s %q: expected CONTEXT=%s", flag, value, form)
		}
		name := value[:at]
		if _, twice := pairs[name]; twice {
			return nil, fmt.Errorf("--%s: context %q appears twice", flag, name)
		}
		if !slices.Contains(contexts, name) {
			return nil, fmt.Errorf("--%s %q: %q is not one of the contexts in --context", flag, value, name)
		}
		pairs[name] = value[at+1:]
	}
	return pairs, nil
}

// rootCAConfigMap publishes the CA of the API server in each namespace (pkg/controller/certificates/rootcacertpublisher, Kubernetes 1.37).
const rootCAConfigMap = "kube-root-ca.crt"

// override sets another address. Its CA is the kubeconfig's, which the cluster cannot choose. Without one, it is the cluster's own, as
// for Pods.
func (s *clusterState) override(ctx context.Context, cluster *clusters.Cluster, server string) error {
	s.Address.Server, s.Address.TLSServerName = server, ""
	config, err := cluster.Get(ctx, corev1.SchemeGroupVersion.WithKind("ConfigMap"), types.NamespacedName{Namespace: s.Namespace, Name: rootCAConfigMap})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return cluster.Explain("reading ConfigMap "+rootCAConfigMap, "get", "configmaps", err)
	}
	text, _, _ := unstructured.NestedString(config.Object, "data", "ca.crt")
	switch ca := trim([]byte(text)); {
	case len(s.Address.CA) == 0:
		s.Address.CA = ca
	case len(ca) > 0:
		s.OtherCA = !bytes.Equal(ca, s.Address.CA)
	}
	return nil
}
