// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// meshIssuer is a ClusterIssuer below the mesh's root, as a platform team sets one up once: its key is in a Secret of
// cert-manager's namespace for such, and may sign one level of CAs.
const meshIssuer = `
openssl req -new -newkey rsa:2048 -nodes -keyout issuer-key.pem -out issuer.csr -subj "/O=mesh-issuer" 2>/dev/null
openssl x509 -req -in issuer.csr -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -days 30 -out issuer.pem \
  -extfile <(printf 'basicConstraints=critical,CA:true,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign') 2>/dev/null
cat root-cert.pem >>issuer.pem
kubectl --context=CONTEXT create secret tls -n cert-manager mesh-issuer --cert=issuer.pem --key=issuer-key.pem
kubectl --context=CONTEXT apply -f - <<EOF
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: mesh}
spec: {ca: {secretName: mesh-issuer}}
EOF
`

// The mesh moves from Vault to an issuer of cert-manager and back, below one root.
func TestSources(t *testing.T) {
	from := func(ctx context.Context, t *testing.T, authority string) {
		t.Helper()
		cluster := clusters[0]
		before, starts := cluster.serials(ctx, t), cluster.starts(ctx, t, "discovery")
		done := cluster.load(ctx, t)
		cluster.kubectl(ctx, t, `patch virtualmesh -n gloo-mesh virtual-mesh --type=merge -p '{"spec":{"mtlsConfig":{"shared":{"intermediateCertificateAuthority":`+authority+`}}}}'`)
		// The fleet's renewals for another specification are spread over minutes, unless a person asks for them.
		_, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=2m --context="+cluster.name)
		must(t, err)
		for pod, serial := range cluster.serials(ctx, t) {
			if before[pod] == serial {
				t.Errorf("Pod %s still uses CA %s", pod, serial)
			}
		}
		done()
		if now := cluster.starts(ctx, t, "discovery"); now != starts {
			t.Errorf("istiod was started again: %d times, %d before", now, starts)
		}
		wantLastStep(ctx, t)
		wantCall(ctx, t, cluster, clusters[len(clusters)-1], "bookinfo")
	}
	environment.Test(t, feature("the CA comes from another source", core).
		Assess("istiod's CA comes from cert-manager, under the same root", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.installCertManager(ctx, t)
			_, err := shell(ctx, strings.ReplaceAll(meshIssuer, "CONTEXT", cluster.name))
			must(t, err)
			_, err = shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --set istiodSidecar.certManager=true --kube-context="+cluster.name)
			must(t, err)
			from(ctx, t, `{"vault":null,"certManager":{"issuerRef":{"name":"mesh","kind":"ClusterIssuer"}}}`)
		})).
		Assess("also that of an istiod which starts", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			cluster.rolledOut(ctx, t, "istiod")
			cluster.serials(ctx, t)
			wantLastStep(ctx, t)
			if left := cluster.kubectl(ctx, t, "get certificaterequests -A -o name"); left != "" {
				t.Errorf("there are still\n%s", left)
			}
			secrets, err := cluster.client.CoreV1().Secrets("istio-system").List(ctx, metav1.ListOptions{})
			must(t, err)
			for _, secret := range secrets.Items {
				if len(secret.Data["tls.key"])+len(secret.Data["ca-key.pem"]) > 0 {
					t.Errorf("Secret %s has a key", secret.Name)
				}
			}
		})).
		Assess("and from Vault again", step(func(ctx context.Context, t *testing.T) {
			from(ctx, t, `{"certManager":null,"vault":{"caPath":"pki/root/sign-intermediate","csrPath":"pki_int/intermediate/generate/exported","server":"http://vault.vault:8200","kubernetesAuth":{"role":"gen-int-ca-istio"}}}`)
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "delete virtualmesh -n gloo-mesh virtual-mesh")
			cluster.kubectl(ctx, t, "apply -f config/samples/virtualmesh.yaml")
			cluster.serials(ctx, t)
			cluster.kubectl(ctx, t, "delete --ignore-not-found secret -n cert-manager mesh-issuer")
			cluster.kubectl(ctx, t, "delete --ignore-not-found -f e2e/suite/manifests/cert-manager.yaml")
		})).
		Feature())
}

// installCertManager installs cert-manager and waits until it runs.
func (c *target) installCertManager(ctx context.Context, t *testing.T) {
	t.Helper()
	crds, err := built.CertManagerCRDs(ctx)
	must(t, err)
	c.kubectl(ctx, t, "apply --server-side -f "+crds)
	c.kubectl(ctx, t, "apply -f e2e/suite/manifests/cert-manager.yaml")
	for _, deployment := range []string{"cert-manager", "cert-manager-cainjector"} {
		c.kubectl(ctx, t, "rollout status -n cert-manager deployment/"+deployment+" --timeout=120s")
	}
}
