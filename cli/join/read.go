// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/verify"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// clusterState is what decides about a context.
type clusterState struct {
	Context string
	// Kubectl begins the printed commands.
	Kubectl string
	// UID is that of namespace kube-system, which no two clusters share.
	UID types.UID
	// Namespace is istiod's, Network the one in its label.
	Namespace, Network string
	Istiods            []istiodState
	// MeshNames are the names of this cluster's meshes by VirtualMeshes.
	MeshNames []string
	Roots     []*x509.Certificate
	PodRanges []netip.Prefix
	Address   remotes.Address
	// Addresses are those of the API server itself, where Address is of no use to a Pod.
	Addresses []string
	Insecure  bool
	// OtherCA is true if, with another address than the kubeconfig's, the cluster publishes another CA than the kubeconfig has.
	OtherCA bool
	Secrets []remotes.Secret
	// Accounts are the UIDs of the accounts of join, and of those in other contexts' remote secrets.
	Accounts map[types.NamespacedName]types.UID
	// ReadSecrets are the accounts, of other contexts' remote secrets, that may list the Secrets of all namespaces.
	ReadSecrets sets.Set[types.NamespacedName]
	// Gateways and Exposed are set with --network: the Services with an east-west port, and whether a Gateway in istiod's namespace
	// passes services through.
	Gateways []gatewayService
	Exposed  bool
}

// gatewayService is the Service of an east-west gateway.
type gatewayService struct {
	Network string
	// Name is NAMESPACE/NAME.
	Name string
	// Hosts are its addresses outside the cluster. Only the API server vouches for them.
	Hosts []string
	// Status is true if it has istio.GatewayStatusPort.
	Status bool
	// Exposed is true if a Gateway passes services through its Pods.
	Exposed bool
}

// istiodState is a Deployment of istiod.
type istiodState struct {
	Name, ClusterID, Revision string
	// Crashes is istio.CrashesOnRemoteSecrets.
	Crashes bool
}

// name returns the cluster's name; empty where the istiods have none or disagree.
func (s *clusterState) name() string {
	for _, istiod := range s.Istiods {
		if istiod.ClusterID != s.Istiods[0].ClusterID {
			return ""
		}
	}
	if len(s.Istiods) == 0 {
		return ""
	}
	return s.Istiods[0].ClusterID
}

var (
	namespaceKind  = corev1.SchemeGroupVersion.WithKind("Namespace")
	deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")
	gatewayKind    = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "Gateway"}
)

// errNoIstiod is for a cluster, or the namespace of --namespace, without an istiod.
var errNoIstiod = errors.New("there is no Deployment of istiod (label app=istiod); install Istio first, or name its namespace by --namespace")

// readIdentity reads the names of a cluster and its istiods. namespace is istiod's, "" for the only one; orGone accepts a given
// namespace without an istiod.
func readIdentity(ctx context.Context, cluster *clusters.Cluster, namespace string, orGone bool) (*clusterState, error) {
	s := &clusterState{Context: cluster.Context, Kubectl: cluster.Kubectl()}
	system, err := cluster.Get(ctx, namespaceKind, types.NamespacedName{Name: "kube-system"})
	if err != nil {
		return s, cluster.Explain("reading namespace kube-system, whose UID identifies the cluster", "get", "namespaces", err)
	}
	s.UID = system.GetUID()
	if err := s.readIstiods(ctx, cluster, namespace); err != nil && (!orGone || namespace == "" || !errors.Is(err, errNoIstiod)) {
		return s, err
	}
	own, err := cluster.Get(ctx, namespaceKind, types.NamespacedName{Name: s.Namespace})
	if err != nil {
		return s, cluster.Explain("reading namespace "+s.Namespace, "get", "namespaces", err)
	}
	s.Network = own.GetLabels()[istio.NetworkLabel]
	s.Secrets, err = remotes.List(ctx, cluster.Client, s.Namespace)
	if err != nil {
		return s, cluster.Explain("listing the remote secrets in namespace "+s.Namespace, "list", "secrets", err)
	}
	return s, nil
}

func (s *clusterState) readIstiods(ctx context.Context, cluster *clusters.Cluster, namespace string) error {
	deployments, err := cluster.List(ctx, deploymentKind, client.MatchingLabels(istio.IstiodLabels), client.InNamespace(namespace))
	if err != nil {
		return cluster.Explain("listing istiod's Deployments", "list", "deployments.apps", err)
	}
	var namespaces []string
	for i := range deployments {
		deployment := &deployments[i]
		if s.Namespace = deployment.GetNamespace(); !slices.Contains(namespaces, s.Namespace) {
			namespaces = append(namespaces, s.Namespace)
		}
		s.Istiods = append(s.Istiods, istiodState{
			Name: deployment.GetName(), ClusterID: istio.ClusterID(deployment), Revision: istio.Revision(deployment),
			Crashes: istio.CrashesOnRemoteSecrets(deployment),
		})
	}
	switch len(namespaces) {
	case 0:
		s.Namespace = namespace
		return errNoIstiod
	case 1:
		return nil
	default:
		slices.Sort(namespaces)
		return fmt.Errorf("there are istiods in the namespaces %s; choose one by --namespace", strings.Join(namespaces, ", "))
	}
}

// readState adds to the identity what join checks. networks is true with --network.
func (s *clusterState) readState(ctx context.Context, cluster *clusters.Cluster, networks bool) error {
	bundles, err := verify.ReadPublished(ctx, cluster, []string{s.Namespace})
	if err != nil {
		return err
	}
	if s.Roots, err = pemcerts.ParseRoots([]byte(bundles[s.Namespace])); err != nil {
		return fmt.Errorf("reading the roots in ConfigMap %s of namespace %s: %w; has istiod started?", istio.RootConfigMap, s.Namespace, err)
	}
	if err := s.readMeshes(ctx, cluster); err != nil {
		return err
	}
	if err := s.readAccounts(ctx, cluster); err != nil {
		return err
	}
	if err := s.readPodRanges(ctx, cluster); err != nil {
		return err
	}
	if err := s.readAddress(ctx, cluster); err != nil {
		return err
	}
	if networks {
		return s.readGateways(ctx, cluster)
	}
	return nil
}

// readMeshes reads the names that the controllers have accepted.
func (s *clusterState) readMeshes(ctx context.Context, cluster *clusters.Cluster) error {
	meshes, err := cluster.List(ctx, clusters.VirtualMeshKind)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil // without the chart, nothing else names the cluster
	}
	if err != nil {
		return cluster.Explain("listing VirtualMeshes", "list", clusters.VirtualMeshes, err)
	}
	for i := range meshes {
		var status networkingv1.VirtualMeshStatus
		if !clusters.DecodeStatus(&meshes[i], &status) {
			continue
		}
		for key, mesh := range status.Meshes {
			if name, _, _ := strings.Cut(key, "."); mesh.IssuedCertificate != nil {
				s.MeshNames = append(s.MeshNames, istio.NormalMeshName(name))
			}
		}
	}
	slices.Sort(s.MeshNames)
	return nil
}

func (s *clusterState) readAccounts(ctx context.Context, cluster *clusters.Cluster) error {
	var accounts corev1.ServiceAccountList
	if err := cluster.Client.List(ctx, &accounts, client.InNamespace(s.Namespace), client.HasLabels{remotes.PartnerLabel}); err != nil {
		return cluster.Explain("listing the accounts of other clusters in namespace "+s.Namespace, "list", "serviceaccounts", err)
	}
	s.Accounts = map[types.NamespacedName]types.UID{}
	for i := range accounts.Items {
		s.Accounts[client.ObjectKeyFromObject(&accounts.Items[i])] = accounts.Items[i].UID
	}
	return nil
}

// sampledNodes is the number of nodes whose Pod addresses are compared: enough to see two clusters with the same range.
const sampledNodes = 100

// readPodRanges reads the Pod addresses of some nodes. Network plugins with their own allocation leave them empty.
func (s *clusterState) readPodRanges(ctx context.Context, cluster *clusters.Cluster) error {
	var nodes corev1.NodeList
	if err := cluster.Client.List(ctx, &nodes, client.Limit(sampledNodes)); err != nil {
		return cluster.Explain("listing nodes, for the addresses of their Pods", "list", "nodes", err)
	}
	for i := range nodes.Items {
		for _, text := range nodes.Items[i].Spec.PodCIDRs {
			if parsed, err := netip.ParsePrefix(text); err == nil {
				s.PodRanges = append(s.PodRanges, parsed)
			}
		}
	}
	return nil
}

func (s *clusterState) readAddress(ctx context.Context, cluster *clusters.Cluster) error {
	config := rest.CopyConfig(cluster.Config)
	if err := rest.LoadTLSFiles(config); err != nil {
		return fmt.Errorf("reading the certificates in the kubeconfig: %w", err)
	}
	s.Address = remotes.Address{Server: config.Host, TLSServerName: config.ServerName, CA: trim(config.CAData)}
	s.Insecure = config.Insecure
	if !loopback(config.Host) {
		return nil
	}
	var slice discoveryv1.EndpointSlice
	// Without it, the advice is shorter.
	_ = cluster.Client.Get(ctx, types.NamespacedName{Namespace: "default", Name: "kubernetes"}, &slice)
	s.Addresses = serverAddresses(&slice)
	return nil
}

// maxAddresses is the most addresses of an API server that are printed.
const maxAddresses = 8

func serverAddresses(slice *discoveryv1.EndpointSlice) (all []string) {
	for _, port := range slice.Ports {
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				if len(all) == maxAddresses {
					return all
				}
				if parsed, err := netip.ParseAddr(address); err == nil && parsed.Zone() == "" && port.Port != nil {
					all = append(all, "https://"+netip.AddrPortFrom(parsed, uint16(*port.Port)).String()) //nolint:gosec // the API server validates ports
				}
			}
		}
	}
	return all
}

// readGateways reads what a cluster of several networks needs (samples/multicluster of Istio).
func (s *clusterState) readGateways(ctx context.Context, cluster *clusters.Cluster) error {
	var services corev1.ServiceList
	if err := cluster.Client.List(ctx, &services, client.HasLabels{istio.NetworkLabel}); err != nil {
		return cluster.Explain("listing the Services of east-west gateways", "list", "services", err)
	}
	gateways, err := cluster.List(ctx, gatewayKind)
	if err != nil {
		return cluster.Explain("listing Gateways", "list", "gateways.networking.istio.io", err)
	}
	s.setGateways(services.Items, gateways)
	return nil
}

// setGateways sets Gateways and Exposed. A Gateway counts only in istiod's namespace, or for Services of its own namespace: others
// may be of another person.
func (s *clusterState) setGateways(services []corev1.Service, gateways []unstructured.Unstructured) {
	gateways = slices.DeleteFunc(gateways, func(gateway unstructured.Unstructured) bool { return !exposes(&gateway) })
	s.Exposed = slices.ContainsFunc(gateways, func(gateway unstructured.Unstructured) bool { return gateway.GetNamespace() == s.Namespace })
	for i := range services {
		service := &services[i]
		has := func(number int32) bool {
			return slices.ContainsFunc(service.Spec.Ports, func(port corev1.ServicePort) bool { return port.Port == number })
		}
		if !has(istio.EastWestPort) {
			continue
		}
		s.Gateways = append(s.Gateways, gatewayService{
			Network: service.Labels[istio.NetworkLabel], Hosts: externalHosts(service), Status: has(istio.GatewayStatusPort),
			Name: fmt.Sprintf("%.63s/%.63s", service.Namespace, service.Name), // the most that an honest API server sends
			Exposed: slices.ContainsFunc(gateways, func(gateway unstructured.Unstructured) bool {
				return (gateway.GetNamespace() == s.Namespace || gateway.GetNamespace() == service.Namespace) && selects(&gateway, service)
			}),
		})
	}
}

// selects reports whether a Gateway is for all Pods of a Service: it requires no label that the Service does not.
func selects(gateway *unstructured.Unstructured, service *corev1.Service) bool {
	labels, _, _ := unstructured.NestedStringMap(gateway.Object, "spec", "selector")
	for key, value := range labels {
		if service.Spec.Selector[key] != value {
			return false
		}
	}
	return true
}

// exposed reports whether Gateways pass services through all gateways of a network, or one does in istiod's namespace.
func (s *clusterState) exposed(network string) bool {
	return s.Exposed || !slices.ContainsFunc(s.Gateways, func(g gatewayService) bool { return g.Network == network && !g.Exposed })
}

// externalHosts returns a Service's hosts outside the cluster (Istio pilot/pkg/serviceregistry/kube/conversion.go, ConvertService).
func externalHosts(service *corev1.Service) (hosts []string) {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host := cmp.Or(ingress.IP, ingress.Hostname); host != "" {
			hosts = append(hosts, host)
		}
	}
	return append(hosts, service.Spec.ExternalIPs...)
}

func (s *clusterState) hasGateway(network string) bool {
	return slices.ContainsFunc(s.Gateways, func(g gatewayService) bool { return g.Network == network })
}

// exposes reports whether a Gateway passes TLS through to every service.
func exposes(gateway *unstructured.Unstructured) bool {
	servers, _, _ := unstructured.NestedSlice(gateway.Object, "spec", "servers")
	return slices.ContainsFunc(servers, func(item any) bool {
		server, _ := item.(map[string]any)
		mode, _, _ := unstructured.NestedString(server, "tls", "mode")
		port, _, _ := unstructured.NestedInt64(server, "port", "number")
		hosts, _, _ := unstructured.NestedStringSlice(server, "hosts")
		return mode == "AUTO_PASSTHROUGH" && port == istio.EastWestPort && slices.Contains(hosts, "*.local")
	})
}

// readAccess looks up the accounts of other contexts' remote secrets, and whether they may list all Secrets here.
func (s *clusterState) readAccess(ctx context.Context, cluster *clusters.Cluster, accounts sets.Set[types.NamespacedName]) error {
	s.ReadSecrets = sets.New[types.NamespacedName]()
	for account := range accounts {
		reads, err := remotes.ReadsSecrets(ctx, cluster.Client, account)
		if err != nil {
			return cluster.Explain(fmt.Sprintf("checking the rights of account %s", account), "create", "subjectaccessreviews.authorization.k8s.io", err)
		}
		if reads {
			s.ReadSecrets.Insert(account)
		}
		var found corev1.ServiceAccount
		if err := client.IgnoreNotFound(cluster.Client.Get(ctx, account, &found)); err != nil {
			return cluster.Explain(fmt.Sprintf("reading account %s", account), "get", "serviceaccounts", err)
		}
		s.Accounts[account] = found.UID
	}
	return nil
}
