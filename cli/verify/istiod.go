// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify/workload"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

const (
	// audience of the tokens that istiod accepts (its TOKEN_AUDIENCES).
	audience = "istio-ca"
	// maxNames is the most namespaces that are named in an error.
	maxNames = 6
	// tokenSeconds is the shortest lifetime of a token that the API server issues.
	tokenSeconds = 600
)

type serviceAccount struct{ namespace, name string }

// obtainWorkload requests a workload's certificate from an istiod of the cluster. address is istiod's TLS port; empty to
// connect through the API server.
func obtainWorkload(ctx context.Context, cluster *clusters.Cluster, bundles Published, account serviceAccount, address string) (*workload.Workload, error) {
	pod, err := istiodPod(ctx, cluster)
	if err != nil {
		return nil, err
	}
	trusted := bundles[pod.Namespace]
	if trusted == "" {
		all, err := ReadPublished(ctx, cluster, []string{pod.Namespace})
		if err != nil {
			return nil, err
		}
		trusted = all[pod.Namespace]
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: new(int64(tokenSeconds))}}
	object := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: account.namespace, Name: account.name}}
	if err := cluster.Client.SubResource("token").Create(ctx, object, request); err != nil {
		if apierrors.IsNotFound(err) {
			err = fmt.Errorf("%w; name another by --service-account", err)
		}
		return nil, cluster.Explain(fmt.Sprintf("requesting a token of service account %s/%s", account.namespace, account.name), "create", "serviceaccounts/token", err)
	}
	dial := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
	if address == "" {
		forwarded, stop, err := Forward(ctx, cluster, pod, istio.SecurePort)
		if err != nil {
			return nil, err
		}
		defer stop()
		address = forwarded
	}
	ctx, cancel := cluster.Limit(ctx)
	defer cancel()
	found, err := workload.Obtain(ctx, workload.Request{
		Dial: dial, ServerName: istio.ServiceName(istio.RevisionOf(pod.Labels)) + "." + pod.Namespace + ".svc", Trusted: []byte(trusted), Token: request.Status.Token,
	})
	if errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("its port %d does not respond (%w); is it running?", istio.SecurePort, err)
	}
	if err != nil {
		return nil, fmt.Errorf("requesting a workload's certificate from istiod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return found, nil
}

// istiodPod returns a ready Pod of istiod, or any Pod without a ready one. It decides who receives a token, and by which roots
// that server is verified, so it takes no Pod of another namespace than istiodNamespaces.
func istiodPod(ctx context.Context, cluster *clusters.Cluster) (*corev1.Pod, error) {
	namespaces, err := istiodNamespaces(ctx, cluster)
	if err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := cluster.Client.List(ctx, &pods, client.MatchingLabels(istio.IstiodLabels)); err != nil {
		return nil, cluster.Explain("listing istiod's Pods", "list", "pods", err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return !slices.Contains(namespaces, pod.Namespace) })
	ready := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool {
		return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("there is no Pod of istiod (label app=istiod) in %s to request a workload's certificate from", terminal.Names(namespaces, maxNames))
	}
	return &pods.Items[max(0, ready)], nil
}

// istiodNamespaces returns the namespaces whose istiods are injected. A cluster without any, as before the agent is installed, has
// the one with istiod's Deployment.
func istiodNamespaces(ctx context.Context, cluster *clusters.Cluster) ([]string, error) {
	namespaces, err := clusters.InjectedNamespaces(ctx, cluster.Client)
	if err != nil {
		return nil, cluster.Explain("listing the namespaces with label "+patches.InjectionLabel, "list", "namespaces", err)
	}
	if len(namespaces) > 0 {
		return namespaces, nil
	}
	var deployments appsv1.DeploymentList
	if err := cluster.Client.List(ctx, &deployments, client.MatchingLabels(istio.IstiodLabels)); err != nil {
		return nil, cluster.Explain("listing istiod's Deployments", "list", "deployments.apps", err)
	}
	for i := range deployments.Items {
		namespaces = append(namespaces, deployments.Items[i].Namespace)
	}
	slices.Sort(namespaces)
	switch namespaces = slices.Compact(namespaces); len(namespaces) {
	case 0:
		return nil, errors.New("there is no Deployment of istiod (label app=istiod) to request a workload's certificate from")
	case 1:
		return namespaces, nil
	default:
		return nil, fmt.Errorf("there are istiods in the namespaces %s, and no label tells which is the mesh's; label its namespace, which also lets the agent be injected there: %s label namespace NAME %s=%s",
			terminal.Names(namespaces, maxNames), cluster.Kubectl(), patches.InjectionLabel, patches.InjectionEnabled)
	}
}

// Forward is `kubectl port-forward` to a port of istiod; stop ends it. The time of a request limits its start.
func Forward(ctx context.Context, cluster *clusters.Cluster, pod *corev1.Pod, port int) (address string, stop func(), err error) {
	config := rest.CopyConfig(cluster.Config)
	config.GroupVersion, config.APIPath, config.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", clientgoscheme.Codecs.WithoutConversion()
	config.Timeout = 0 // the connection stays open
	api, err := rest.RESTClientFor(config)
	if err != nil {
		return "", nil, err
	}
	dialer, err := newDialer(config, api.Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL())
	if err != nil {
		return "", nil, err
	}
	end, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(port)}, end, ready, io.Discard, io.Discard)
	if err != nil {
		return "", nil, err
	}
	go func() { failed <- forwarder.ForwardPorts() }()
	ctx, cancel := cluster.Limit(ctx)
	defer cancel()
	select {
	case <-ready:
	case err = <-failed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		close(end)
		return "", nil, cluster.Explain(fmt.Sprintf("forwarding a port to istiod %s/%s", pod.Namespace, pod.Name), "create", "pods/portforward", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil || len(ports) != 1 {
		close(end)
		return "", nil, errors.Join(errors.New("forwarding a port to istiod: no port"), err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), func() { close(end) }, nil
}

// newDialer dials as kubectl does: by WebSockets, or by SPDY for API servers without them (before Kubernetes 1.31).
func newDialer(config *rest.Config, target *url.URL) (httpstream.Dialer, error) {
	overWebSockets, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	overSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	return portforward.NewFallbackDialerForStreaming(overWebSockets, overSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

func parseAddresses(values []string) (map[string]string, error) {
	addresses := map[string]string{}
	for _, value := range values {
		name, address, found := strings.Cut(value, "=")
		if _, _, err := net.SplitHostPort(address); !found || err != nil {
			return nil, fmt.Errorf("--istiod-address %q: expected CONTEXT=HOST:PORT", value)
		}
		addresses[name] = address
	}
	return addresses, nil
}
