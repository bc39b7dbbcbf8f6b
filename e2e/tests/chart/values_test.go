// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

func TestInvalidValues(t *testing.T) {
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
		"no Secret named":                   {`servingCertificate: {source: secret}`, `servingCertificate.secret.name: required`},
		"CA not PEM":                        {`servingCertificate: {source: secret, secret: {name: x, caBundle: LS0tLS1CRUdJTg==}}`, `at '/servingCertificate/secret/caBundle'`},
		"two that fill the caBundle":        {`servingCertificate: {source: secret, secret: {name: x, caBundle: "-----BEGIN CERTIFICATE-----\nx", injectCAFromSecret: true}}`, `caBundle and injectCAFromSecret exclude each other`},
		"issuer without name":               {`servingCertificate: {source: cert-manager, issuerRef: {kind: ClusterIssuer}}`, `servingCertificate.issuerRef.name: required`},
		"ServiceAccount not named":          {`serviceAccount: {create: false}`, `serviceAccount.name: required`},
		"variable without a name":           {`injection: {agent: {env: [{value: x}]}}`, `at '/injection/agent/env/0': missing property 'name'`},
		"variable's name with a space":      {`injection: {agent: {env: [{name: "a b"}]}}`, `at '/injection/agent/env/0/name'`},
		"variable of the agent's own":       {`injection: {agent: {env: [{name: POD_NAME, value: x}]}}`, `at '/injection/agent/env/0/name'`},
		"variable with two values":          {`injection: {agent: {env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]}}`, `at '/injection/agent/env/0'`},
		"variable from nowhere":             {`injection: {agent: {env: [{name: A, valueFrom: {}}]}}`, `at '/injection/agent/env/0/valueFrom'`},
		"variable of another shape":         {`injection: {agent: {env: [{name: A, from: x}]}}`, `additional properties 'from' not allowed`},
		"variable's value no string":        {`injection: {agent: {env: [{name: A, value: 1}]}}`, `at '/injection/agent/env/0/value': got number, want string`},
		"variable that stands twice":        {`injection: {agent: {env: [{name: A}, {name: A, value: x}]}}`, `injection.agent.env: A is listed twice`},
		"more variables than are injected":  {`injection: {agent: {env: [` + strings.Repeat(`{name: A},`, 201) + `]}}`, `at '/injection/agent/env': maxItems`},
		"allowed servers as a variable":     {`injection: {agent: {allowedServers: ["https://v"], env: [{name: ISTIOD_AGENT_ALLOWED_SERVERS}]}}`, `ISTIOD_AGENT_ALLOWED_SERVERS and injection.agent.allowedServers exclude each other`},
		"webhook's variable twice":          {`extraEnv: [{name: A}, {name: A}]`, `extraEnv: A is listed twice`},
		"webhook's own variable":            {`extraEnv: [{name: GOMEMLIMIT, value: 1GiB}]`, `at '/extraEnv/0/name'`},
		"resources of another shape":        {`injection: {agent: {resources: {cpu: 1}}}`, `at '/injection/agent/resources': additional properties 'cpu' not allowed`},
		"resource claims of the agent":      {`injection: {agent: {resources: {claims: []}}}`, `additional properties 'claims' not allowed`},
		"resource no quantity":              {`injection: {agent: {resources: {limits: {memory: 64MB}}}}`, `at '/injection/agent/resources/limits/memory'`},
		"resource negative":                 {`injection: {agent: {resources: {limits: {cpu: -1}}}}`, `at '/injection/agent/resources/limits/cpu'`},
		"resource too fine":                 {`injection: {agent: {resources: {limits: {cpu: 0.0001}}}}`, `at '/injection/agent/resources/limits/cpu'`},
		"resource too fine, as text":        {`injection: {agent: {resources: {limits: {cpu: 100u}}}}`, `at '/injection/agent/resources/limits/cpu'`},
		"request above its limit":           {`injection: {agent: {resources: {requests: {memory: 1Gi}, limits: {memory: 900Mi}}}}`, `injection.agent.resources.requests.memory: must not exceed the limit of 900Mi, got 1Gi`},
		"request above its limit in cores":  {`injection: {agent: {resources: {requests: {cpu: 1}, limits: {cpu: 999m}}}}`, `injection.agent.resources.requests.cpu: must not exceed the limit of 999m, got 1`},
		"webhook's request above its limit": {`resources: {requests: {memory: 257Mi}}`, `resources.requests.memory: must not exceed the limit of 256Mi, got 257Mi`},
		"equal ports":                       {`server: {port: 8081}`, `server.healthPort: must differ from server.port (8081)`},
		"equal ports of the metrics":        {`server: {metricsPort: 8081}`, `server.metricsPort: must differ from server.healthPort (8081)`},
		"equal ports of the Service":        {`service: {metricsPort: 443}`, `service.metricsPort: must differ from service.port (443)`},
		"every service account":             {`istiodSidecar: {serviceAccounts: [{name: "*", namespace: istio-system}]}`, `at '/istiodSidecar/serviceAccounts/0/name'`},
		"service accounts everywhere":       {`istiodSidecar: {serviceAccounts: [{name: istiod, namespace: "*"}]}`, `at '/istiodSidecar/serviceAccounts/0/namespace'`},
		"rights in every namespace":         {`istiodSidecar: {namespaces: ["*"]}`, `at '/istiodSidecar/namespaces/0'`},
		"rights in a namespace twice":       {`istiodSidecar: {namespaces: [mesh, mesh]}`, `at '/istiodSidecar/namespaces'`},
		"service account twice":             {`istiodSidecar: {serviceAccounts: [{name: a, namespace: b}, {name: a, namespace: b}]}`, `istiodSidecar.serviceAccounts: b/a is listed twice`},
		"service account with capitals":     {`istiodSidecar: {serviceAccounts: [{name: Istiod, namespace: istio-system}]}`, `at '/istiodSidecar/serviceAccounts/0/name'`},
		"namespace with capitals":           {`istiodSidecar: {serviceAccounts: [{name: istiod, namespace: Mesh}]}`, `at '/istiodSidecar/serviceAccounts/0/namespace'`},
		"Secret of a token with capitals":   {`istiodSidecar: {serviceAccounts: [{name: istiod, namespace: mesh, tokenSecret: Vault}]}`, `at '/istiodSidecar/serviceAccounts/0/tokenSecret'`},
		"Secret of a login with capitals":   {`istiodSidecar: {serviceAccounts: [{name: istiod, namespace: mesh, vaultSecrets: [Vault]}]}`, `at '/istiodSidecar/serviceAccounts/0/vaultSecrets/0'`},
		"every Secret of a namespace":       {`istiodSidecar: {serviceAccounts: [{name: istiod, namespace: mesh, vaultSecrets: ["*"]}]}`, `at '/istiodSidecar/serviceAccounts/0/vaultSecrets/0'`},
		"ServiceAccount with capitals":      {`serviceAccount: {name: Mine}`, `at '/serviceAccount/name'`},
		"name with capitals":                {`nameOverride: Mine`, `at '/nameOverride'`},
		"full name with capitals":           {`fullnameOverride: Mine`, `at '/fullnameOverride'`},
		"full name no Service can have":     {`fullnameOverride: 1st`, `at '/fullnameOverride'`},
		"Secret with capitals":              {`servingCertificate: {source: secret, secret: {name: TLS}}`, `at '/servingCertificate/secret/name'`},
		"issuer with capitals":              {`servingCertificate: {source: cert-manager, issuerRef: {name: CA}}`, `at '/servingCertificate/issuerRef/name'`},
		"pull Secret with capitals":         {`imagePullSecrets: [{name: Registry}]`, `at '/imagePullSecrets/0/name'`},
		"VirtualMesh with capitals":         {`virtualMesh: {name: Mesh}`, `at '/virtualMesh/name'`},
		"its namespace with capitals":       {`virtualMesh: {namespace: Mesh}`, `at '/virtualMesh/namespace'`},
		"image with capitals":               {`image: {repository: Example.com/X}`, `at '/image/repository'`},
		"tag with a colon":                  {`injection: {agent: {image: {tag: "a:b"}}}`, `at '/injection/agent/image/tag'`},
		"registry with a scheme":            {`global: {imageRegistry: "https://mirror.example.com"}`, `at '/global/imageRegistry'`},
		"bundle without a certificate":      {`bundleEndpoint: {enabled: true}`, `bundleEndpoint: secretName or issuerRef is required with enabled`},
		"bundle with two certificates":      {`bundleEndpoint: {enabled: true, secretName: x, issuerRef: {name: x}, dnsNames: [x]}`, `bundleEndpoint: secretName and issuerRef exclude each other`},
		"bundle's issuer without a name":    {`bundleEndpoint: {enabled: true, issuerRef: {kind: Issuer}, dnsNames: [x]}`, `bundleEndpoint.issuerRef.name: required`},
		"bundle's certificate for no host":  {`bundleEndpoint: {enabled: true, issuerRef: {name: x}}`, `bundleEndpoint.dnsNames: required with issuerRef`},
		"names that no certificate gets":    {`bundleEndpoint: {enabled: true, secretName: x, dnsNames: [x]}`, `bundleEndpoint.dnsNames: only with issuerRef`},
		"bundle of no namespace":            {`bundleEndpoint: {namespaces: []}`, `at '/bundleEndpoint/namespaces': minItems`},
		"bundle of a namespace without rights": {
			`{bundleEndpoint: {enabled: true, secretName: x}, rbac: {namespaces: [mesh]}, virtualMesh: {namespaces: [mesh]}}`, `bundleEndpoint.namespaces: istio-system must also be in rbac.namespaces`,
		},
		"bundle on a taken port":           {`{bundleEndpoint: {enabled: true, secretName: x}, server: {bundlePort: 9443}}`, `server.bundlePort: must differ from server.port (9443)`},
		"bundle's Service of another type": {`bundleEndpoint: {service: {type: ExternalName}}`, `at '/bundleEndpoint/service/type'`},
		"two of one budget":                {`podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}`, `podDisruptionBudget: minAvailable and maxUnavailable exclude each other`},
		"budget no number":                 {`podDisruptionBudget: {minAvailable: most}`, `at '/podDisruptionBudget/minAvailable'`},
		"budget negative":                  {`podDisruptionBudget: {minAvailable: -1}`, `at '/podDisruptionBudget/minAvailable'`},
		"autoscaling upside down":          {`autoscaling: {enabled: true, minReplicas: 6}`, `autoscaling.maxReplicas: must be at least minReplicas (6)`},
		"autoscaling without a request":    {`{autoscaling: {enabled: true}, resources: {requests: {cpu: null}}}`, `resources.requests.cpu: required with autoscaling.enabled`},
		"families of the Service":          {`service: {ipFamilyPolicy: Dual}`, `at '/service/ipFamilyPolicy'`},
		"a family twice":                   {`service: {ipFamilies: [IPv4, IPv4]}`, `at '/service/ipFamilies'`},
		"own objects labelled as istiods":  {`commonLabels: {app: istiod}`, `commonLabels: app=istiod is the label of istiods`},
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

// Unusual values that are valid.
func TestOddValues(t *testing.T) {
	for name, values := range map[string]string{
		"quantities of every form":  `injection: {agent: {resources: {requests: {cpu: 0.5, memory: 128974848}, limits: {cpu: 1500m, memory: 129e6, ephemeral-storage: 1.5Gi}}}}`,
		"equal request and limit":   `injection: {agent: {resources: {requests: {cpu: 0.5, memory: 1Ki}, limits: {cpu: 500m, memory: 1024}}}}`,
		"no resources":              `{injection: {agent: {resources: {}}}, resources: {requests: null, limits: null}}`,
		"variables without a value": `injection: {agent: {env: [{name: A}, {name: b.c-d, value: ""}, {name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}]}}`,
		"accounts with dots":        `istiodSidecar: {serviceAccounts: [{name: istiod.1-30, namespace: mesh}, {name: istiod.1-30, namespace: mesh-2}]}`,
		"no Pod may be down":        `podDisruptionBudget: {maxUnavailable: 0}`,
		"no global values":          `global: null`,
		"global values of others":   `global: {hub: docker.io/istio, imagePullSecrets: []}`,
	} {
		t.Run(name, func(t *testing.T) {
			decoded := helm.Values{}
			if err := yaml.Unmarshal([]byte(values), &decoded); err != nil {
				t.Fatal(err)
			}
			configuration(t, render(t, standard, decoded))
		})
	}
}

// As a dependency the chart accepts the condition's value and the parent's global values.
func TestSubchart(t *testing.T) {
	for name, test := range map[string]struct {
		values  string
		objects bool
		image   string
	}{
		"enabled":     {`istiod-agent: {enabled: true, clusterName: cluster-1}`, true, "ghcr.io/istiod-agent/istiod-agent-webhook:0.1.0"},
		"disabled":    {`istiod-agent: {enabled: false}`, false, ""},
		"a registry":  {`{istiod-agent: {enabled: true}, global: {imageRegistry: mirror.example.com, hub: docker.io/istio}}`, true, "mirror.example.com/istiod-agent/istiod-agent-webhook:0.1.0"},
		"no registry": {`{istiod-agent: {enabled: true, image: {repository: team/webhook}}, global: {imageRegistry: "localhost:5000/"}}`, true, "localhost:5000/team/webhook:0.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, err := loader.Load(filepath.Join(root(t), "charts", "istiod-agent"))
			if err != nil {
				t.Fatal(err)
			}
			parent := &chart.Chart{Metadata: &chart.Metadata{
				APIVersion: chart.APIVersionV2, Name: "platform", Version: "0.1.0",
				Dependencies: []*chart.Dependency{{Name: "istiod-agent", Version: ours.Metadata.Version, Condition: "istiod-agent.enabled"}},
			}}
			parent.AddDependency(ours)
			values := helm.Values{}
			if err := yaml.Unmarshal([]byte(test.values), &values); err != nil {
				t.Fatal(err)
			}
			text, err := helm.Render(t.Context(), helm.Release{Name: "platform", Namespace: "platform"}, parent, values)
			if err != nil {
				t.Fatal(err)
			}
			if found := strings.Contains(text, "kind: Deployment"); found != test.objects {
				t.Errorf("the chart is rendered: %t, want %t", found, test.objects)
			}
			if test.image != "" && !strings.Contains(text, "image: "+test.image+"\n") {
				t.Errorf("there is no image %s in\n%s", test.image, text)
			}
		})
	}
}

func TestKubernetesVersion(t *testing.T) {
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

func TestNotes(t *testing.T) {
	for name, test := range map[string]struct {
		values helm.Values
		want   []string
	}{
		"by default": {nil, []string{
			"kubectl apply -f virtual-mesh.yaml",
			"kubectl label namespace istio-system istiod-agent.io/injection=enabled",
			"istioctl install",
			"The label also injects an existing istiod, which restarts it",
			"helm test istiod-agent -n istiod-agent-system",
		}},
		"existing istiods left alone": {helm.Values{"injection": helm.Values{"injectExisting": false}}, []string{"rollout restart deployment istiod"}},
		"nobody fills the caBundle": {
			helm.Values{"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{"name": "mine"}}},
			[]string{"Add the CA of Secret mine with", "kubectl edit mutatingwebhookconfiguration istiod-agent "},
		},
		"no name of the cluster": {helm.Values{"clusterName": ""}, []string{"clusterName is not set: VirtualMeshes have no effect"}},
		"guard off":              {helm.Values{"guard": helm.Values{"enabled": false}}, []string{"The guard is disabled"}},
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
