// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// With ENABLE_CLUSTER_TRUST_BUNDLE_API, istiod publishes its root in a ClusterTrustBundle instead of the ConfigMaps, which the
// agent, the webhook and the bundle endpoint read. docs/trust-bundles.md therefore tells not to set it.
func TestClusterTrustBundle(t *testing.T) {
	plane, err := controlplane.Start(func(server *envtest.APIServer) {
		server.Configure().Append("runtime-config", "certificates.k8s.io/v1beta1/clustertrustbundles=true")
	})
	must(t, err)
	t.Cleanup(func() { must(t, plane.Stop()) })
	clients, err := kubernetes.NewForConfig(plane.Config)
	must(t, err)
	cacerts, root := authority(t)
	istiod, err := istiodserver.Start(t.Context(), istiodserver.Options{
		Plane: plane, Namespace: namespace, CACerts: cacerts, Env: map[string]string{"ENABLE_CLUSTER_TRUST_BUNDLE_API": "true"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, istiod.Stop()) })
	cluster.Eventually(t, "istiod publishes a ClusterTrustBundle", func() error {
		bundle, err := clients.CertificatesV1().ClusterTrustBundles().Get(t.Context(), "istio.io:istiod-ca:root-cert", metav1.GetOptions{})
		if err == nil && (!bytes.Equal(bytes.TrimSpace([]byte(bundle.Spec.TrustBundle)), bytes.TrimSpace(root.PEM())) || bundle.Spec.SignerName != "istio.io/istiod-ca") {
			err = fmt.Errorf("it holds something else: %+v", bundle.Spec)
		}
		return err
	})
	if _, err := istiod.PublishedRoot(t.Context(), namespace); !apierrors.IsNotFound(err) {
		t.Errorf("istiod publishes the ConfigMap too (%v): correct docs/trust-bundles.md", err)
	}
}

// Istio uses the beta API, which an API server of Kubernetes 1.37 does not serve unless it is told to.
func TestClusterTrustBundleBeta(t *testing.T) {
	clients, err := kubernetes.NewForConfig(one.Plane.Config)
	must(t, err)
	stable, err := clients.Discovery().ServerResourcesForGroupVersion("certificates.k8s.io/v1")
	must(t, err)
	if !serves(stable, "clustertrustbundles") {
		t.Error("certificates.k8s.io/v1 has no ClusterTrustBundle")
	}
	beta, err := clients.Discovery().ServerResourcesForGroupVersion("certificates.k8s.io/v1beta1")
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if err == nil && serves(beta, "clustertrustbundles") {
		t.Error("certificates.k8s.io/v1beta1 is served by default: correct docs/trust-bundles.md")
	}
}

func serves(resources *metav1.APIResourceList, name string) bool {
	for _, resource := range resources.APIResources {
		if resource.Name == name {
			return true
		}
	}
	return false
}

// A ClusterTrustBundle for consumers outside the mesh, as docs/trust-bundles.md creates it from what istiod publishes: the API
// server accepts it, and refuses what is no CA.
func TestOwnClusterTrustBundle(t *testing.T) {
	clients, err := kubernetes.NewForConfig(one.Plane.Config)
	must(t, err)
	bundles := clients.CertificatesV1().ClusterTrustBundles()
	root := testca.Root("mesh")
	create := func(name, text string) error {
		_, err := bundles.Create(t.Context(), &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: text},
		}, metav1.CreateOptions{})
		return err
	}
	if err := errors.Join(create("mesh-roots", string(root.PEM())), bundles.Delete(t.Context(), "mesh-roots", metav1.DeleteOptions{})); err != nil {
		t.Error(err)
	}
	if err := create("mesh-roots", string(root.PEM())+string(root.PEM())); !apierrors.IsInvalid(err) {
		t.Errorf("the same root twice: %v", err)
	}
	if err := create("mesh-roots", "none"); !apierrors.IsInvalid(err) {
		t.Errorf("no root: %v", err)
	}
}
