// SPDX-License-Identifier: Apache-2.0

package remotes

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Rules are the rights of a remote istiod: what discovery lists and watches, each with its reader in Istio 1.31. No rule names
// Secrets. TokenReviews and SubjectAccessReviews are left out: they are for the proxies of a cluster without an istiod
// (security/pkg/server/ca/authenticate/kubeauth, pilot/pkg/credentials/kube). meshConfigs are the names of the ConfigMaps that
// the remote istiod looks up.
func Rules(meshConfigs []string) []rbacv1.PolicyRule {
	read := []string{"list", "watch"}
	return []rbacv1.PolicyRule{
		// The discovery selectors, the services, and the Pods, nodes and endpoints behind them
		// (pkg/kube/multicluster/cluster.go, buildClusterCollections; pilot/pkg/serviceregistry/kube/controller/controller.go).
		{APIGroups: []string{""}, Resources: []string{"namespaces", "nodes", "pods", "services"}, Verbs: read},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
		// Which of the kinds below exist (pkg/kube/kclient/crdwatcher.go).
		{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: read},
		// East-west gateways (pilot/pkg/serviceregistry/kube/controller/network.go).
		{APIGroups: []string{"gateway.networking.k8s.io"}, Resources: []string{"gateways"}, Verbs: read},
		// Workloads outside Kubernetes (pilot/pkg/serviceregistry/kube/controller/multicluster.go, createWleConfigStore).
		{APIGroups: []string{"networking.istio.io"}, Resources: []string{"workloadentries"}, Verbs: read},
		// Services of the Multi-Cluster Services API, if istiod uses it (serviceexportcache.go, serviceimportcache.go).
		{APIGroups: []string{"multicluster.x-k8s.io"}, Resources: []string{"serviceexports", "serviceimports"}, Verbs: read},
		// The trust domain of the cluster (pkg/config/mesh/kubemesh/watcher.go).
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: meshConfigs, Verbs: read},
	}
}

// Use is one istiod's access to another cluster.
type Use struct {
	// Reader and Target are names of clusters: the istiod of Reader reads Target.
	Reader, Target string
	// ReaderNamespace and TargetNamespace are those of istiod in each.
	ReaderNamespace, TargetNamespace string
}

// AccountName returns the name of the account in Target.
func (u Use) AccountName() string { return AccountPrefix + u.Reader }

// RoleName returns the name of its ClusterRole and ClusterRoleBinding, distinct for each mesh of a cluster.
func (u Use) RoleName() string { return "istiod-agent-remote:" + u.TargetNamespace + ":" + u.Reader }

// SecretName returns the name of the remote secret in Reader.
func (u Use) SecretName() string { return istio.RemoteSecretPrefix + u.Target }

func labels(partner string) map[string]string {
	return map[string]string{"app.kubernetes.io/managed-by": "istiod-agent", PartnerLabel: partner}
}

// Account returns the objects in Target, in the order of their creation.
func (u Use) Account(meshConfigs []string) (*corev1.ServiceAccount, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	meta := metav1.ObjectMeta{Name: u.RoleName(), Labels: labels(u.Reader)}
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: u.TargetNamespace, Name: u.AccountName(), Labels: labels(u.Reader)}, AutomountServiceAccountToken: new(bool)},
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: Rules(meshConfigs)},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: u.TargetNamespace, Name: u.AccountName()}},
		}
}

// Address is how istiod's Pods connect to an API server.
type Address struct {
	Server, TLSServerName string
	CA                    []byte // PEM
}

// Is reports whether a remote secret has this address.
func (a Address) Is(s *Secret) bool {
	return s.Server == a.Server && s.TLSServerName == a.TLSServerName && slices.Equal(s.CA, a.CA)
}

// Secret returns the remote secret in Reader (istioctl/pkg/multicluster/remote_secret.go). Without a token it is for a dry run.
func (u Use) Secret(name string, address Address, token string, expires time.Time) (*corev1.Secret, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[u.Target] = &clientcmdapi.Cluster{Server: address.Server, TLSServerName: address.TLSServerName, CertificateAuthorityData: address.CA}
	config.AuthInfos[u.Target] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts[u.Target] = &clientcmdapi.Context{Cluster: u.Target, AuthInfo: u.Target}
	config.CurrentContext = u.Target
	content, err := clientcmd.Write(*config)
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: u.ReaderNamespace, Name: name, Labels: labels(u.Target),
			Annotations: map[string]string{istio.RemoteClusterAnnotation: u.Target, ExpiresAnnotation: expires.UTC().Format(time.RFC3339)},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{u.Target: content},
	}
	secret.Labels[istio.RemoteSecretLabel] = "true"
	return secret, nil
}
