// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/helm"
)

func TestMistakesInValuesAreRefusedByName(t *testing.T) {
	for name, test := range map[string]struct{ values, want string }{
		"unknown value":                     {`replica: 2`, `additional properties 'replica' not allowed`},
		"unknown value in a group":          {`injection: {targets: pods}`, `at '/injection': additional properties 'targets' not allowed`},
		"value of another type":             {`guard: {enabled: "yes"}`, `at '/guard/enabled': got string, want boolean`},
		"not one of the choices":            {`injection: {target: daemonsets}`, `at '/injection/target': value must be one of 'deployments', 'pods'`},
		"no such port":                      {`server: {port: 70000}`, `at '/server/port': maximum`},
		"no digest":                         {`image: {digest: abc}`, `at '/image/digest'`},
		"no quantity":                       {`injection: {cacerts: {sizeLimit: lots}}`, `at '/injection/cacerts/sizeLimit'`},
		"a tag that YAML reads as a number": {`injection: {agent: {image: {tag: 1.2}}}`, `at '/injection/agent/image/tag': got number, want string`},
		"guard that does nothing":           {`guard: {actions: []}`, `at '/guard/actions': minItems`},
		"null for what is needed":           {`injection: {rollout: null}`, `at '/injection': missing property 'rollout'`},
		"no Secret named":                   {`servingCertificate: {source: secret}`, `servingCertificate.secret.name is needed`},
		"CA not PEM":                        {`servingCertificate: {source: secret, secret: {name: x, caBundle: LS0tLS1CRUdJTg==}}`, `at '/servingCertificate/secret/caBundle'`},
		"two that fill the caBundle":        {`servingCertificate: {source: secret, secret: {name: x, caBundle: "-----BEGIN CERTIFICATE-----\nx", injectCAFromSecret: true}}`, `caBundle and injectCAFromSecret exclude each other`},
		"issuer without name":               {`servingCertificate: {source: cert-manager, issuerRef: {kind: ClusterIssuer}}`, `servingCertificate.issuerRef.name is needed`},
		"ServiceAccount not named":          {`serviceAccount: {create: false}`, `serviceAccount.name is needed`},
		"own objects labelled as istiods":   {`commonLabels: {app: istiod}`, `commonLabels: app=istiod is the label of istiods`},
	} {
		t.Run(name, func(t *testing.T) {
			values := helm.Values{}
			if err := yaml.Unmarshal([]byte(test.values), &values); err != nil {
				t.Fatal(err)
			}
			switch _, err := tryRender(t, standard, values, "v1.30.0"); {
			case err == nil:
				t.Error("this is accepted")
			case !strings.Contains(err.Error(), test.want):
				t.Errorf("the answer is\n%v\nwithout %q", err, test.want)
			}
		})
	}
}

func TestOlderKubernetesIsRefused(t *testing.T) {
	for _, version := range []string{"v1.30.0", "v1.37.2", "v1.33.5-gke.1162000", "v1.31.0-eks-a737599"} {
		if _, err := tryRender(t, standard, nil, version); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
	if _, err := tryRender(t, standard, nil, "v1.29.9"); err == nil {
		t.Error("Kubernetes 1.29 is accepted")
	}
}

func TestLint(t *testing.T) {
	lint := action.NewLint()
	lint.Strict = true
	result := lint.Run([]string{filepath.Join(root(t), "charts", "istiod-agent")}, nil)
	for _, err := range result.Errors {
		t.Error(err)
	}
}

func TestNotesSayWhatToDoNext(t *testing.T) {
	for name, test := range map[string]struct {
		values helm.Values
		want   []string
	}{
		"by default": {nil, []string{
			"kubectl apply -f virtual-mesh.yaml",
			"kubectl label namespace istio-system istiod-agent.io/injection=enabled",
			"istioctl install",
			"and restarts, as soon as its namespace is labelled",
			"helm test istiod-agent -n istiod-agent-system",
		}},
		"existing istiods left alone": {helm.Values{"injection": helm.Values{"injectExisting": false}}, []string{"rollout restart deployment istiod"}},
		"nobody fills the caBundle": {
			helm.Values{"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{"name": "mine"}}},
			[]string{"put the CA of Secret mine into", "kubectl edit mutatingwebhookconfiguration istiod-agent "},
		},
		"guard off": {helm.Values{"guard": helm.Values{"enabled": false}}, []string{"The guard is off"}},
	} {
		t.Run(name, func(t *testing.T) {
			notes := render(t, standard, test.values).notes
			for _, want := range test.want {
				if !strings.Contains(notes, want) {
					t.Errorf("%q is missing in\n%s", want, notes)
				}
			}
		})
	}
}
