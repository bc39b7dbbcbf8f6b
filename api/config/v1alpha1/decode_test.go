// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

// header starts every configuration that these tests write.
const header = "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\n"

func TestDecodeMistakes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		config string
		// want is what must be said, one mistake each; nothing else may be.
		want []string
	}{
		"unknown field at the top": {
			"targets: pods\n",
			[]string{`targets: Forbidden: there is no such field`},
		},
		"field in the wrong case": {
			"Target: pods\n",
			[]string{`Target: Forbidden: there is no such field`},
		},
		"unknown field with a deep value is named once": {
			"agents: {env: [{name: A}], resources: {nope: 1}}\n",
			[]string{`agents: Forbidden: there is no such field`},
		},
		"unknown field of the agent": {
			"agent: {img: a}\n",
			[]string{`agent.img: Forbidden: there is no such field`},
		},
		"unknown fields of the second variable": {
			"agent: {env: [{name: A}, {name: B, valeu: x}, {name: C, valueFrom: {fieldRef: {feildPath: x}}}]}\n",
			[]string{
				`agent.env[1].valeu: Forbidden: there is no such field`,
				`agent.env[2].valueFrom.fieldRef.feildPath: Forbidden: there is no such field`,
			},
		},
		"unknown fields of resources and security context": {
			"agent: {resources: {request: {cpu: 1}}, securityContext: {capabilties: {}, capabilities: {dorp: [ALL]}}}\n",
			[]string{
				`agent.resources.request: Forbidden: there is no such field`,
				`agent.securityContext.capabilities.dorp: Forbidden: there is no such field`,
				`agent.securityContext.capabilties: Forbidden: there is no such field`,
			},
		},
		"unknown fields of the server and its certificate": {
			"server: {ports: 1, servingCertificate: {sauce: secret}}\n",
			[]string{
				`server.ports: Forbidden: there is no such field`,
				`server.servingCertificate.sauce: Forbidden: there is no such field`,
			},
		},
		"values of the wrong kind": {
			"rollout: 5\nannotate: often\ncacerts: 1Mi\nserver: {port: '9443', servingCertificate: {dnsNames: a.b.svc}}\n",
			[]string{
				`annotate: Invalid value: "often": expected true or false, found a string`,
				`cacerts: Invalid value: "1Mi": expected a mapping, found a string`,
				`rollout: Invalid value: 5: expected a string, found a number`,
				`server.port: Invalid value: "9443": expected a whole number, found a string`,
				`server.servingCertificate.dnsNames: Invalid value: "a.b.svc": expected a list, found a string`,
			},
		},
		"a mapping or a list where a plain value belongs": {
			"target: {a: b}\nsidecar: [native]\nagent: {env: [[1]], resources: []}\n",
			[]string{
				`agent.env[0]: Invalid value: [1]: expected a mapping, found a list`,
				`agent.resources: Invalid value: []: expected a mapping, found a list`,
				`sidecar: Invalid value: ["native"]: expected a string, found a list`,
				`target: Invalid value: {"a":"b"}: expected a string, found a mapping`,
			},
		},
		"wrong kinds deep within": {
			"agent: {env: [{name: A, value: 1}], resources: {limits: {cpu: ten}}, securityContext: {runAsUser: root, capabilities: {drop: ALL}}}\n",
			[]string{
				`agent.env[0].value: Invalid value: 1: expected a string, found a number`,
				`agent.resources.limits.cpu: Invalid value: "ten": quantities must match`,
				`agent.securityContext.capabilities.drop: Invalid value: "ALL": expected a list, found a string`,
				`agent.securityContext.runAsUser: Invalid value: "root": expected a whole number, found a string`,
			},
		},
		"numbers that are no port": {
			"server: {port: 1.5, healthPort: 99999999999}\n",
			[]string{
				`server.healthPort: Invalid value: 9.9999999999e+10: expected a whole number, found 99999999999`,
				`server.port: Invalid value: 1.5: expected a whole number, found 1.5`,
			},
		},
		"words that mean nothing": {
			"target: pod\nsidecar: ambient\nrollout: sometimes\nagent: {imagePullPolicy: Maybe}\nserver: {servingCertificate: {source: vault}}\n",
			[]string{
				`target: Unsupported value: "pod": supported values: "deployments", "pods"`,
				`sidecar: Unsupported value: "ambient": supported values: "container", "native"`,
				`rollout: Unsupported value: "sometimes": supported values: "manual", "automatic"`,
				`agent.imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"`,
				`server.servingCertificate.source: Unsupported value: "vault": supported values: "self-managed", "cert-manager", "secret"`,
			},
		},
		"image with an endless tag": {
			"agent: {image: 'a:" + strings.Repeat("v", 129) + "'}\n",
			[]string{`agent.image: Invalid value: `},
		},
		"image that is no reference": {
			"agent: {image: 'Not An Image'}\n",
			[]string{`agent.image: Invalid value: "Not An Image": expected an image reference such as`},
		},
		"servers that are none": {
			"agent: {allowedServers: ['https://gateway/vault', 'vault', 'https://gateway/v1', 'https://gateway/a/../b', 'https://gateway//b', 'https://gateway/%2e%2e/b', 'https://gateway/b?a', 'https://gateway/b#a', 'https://b@gateway', 'https://gateway/b,https://evil', 'https://gateway/b/']}\n",
			[]string{
				`agent.allowedServers[1]: Invalid value: "vault": expected https://<host>[:<port>][/<prefix>]`,
				`agent.allowedServers[2]: `, `agent.allowedServers[3]: `, `agent.allowedServers[4]: `, `agent.allowedServers[5]: `,
				`agent.allowedServers[6]: `, `agent.allowedServers[7]: `, `agent.allowedServers[8]: `, `agent.allowedServers[9]: `,
			},
		},
		"variables that cannot be set": {
			`agent: {env: [{name: POD_NAME}, {name: "A=B"}, {name: A}, {name: A}, {value: x}, {name: C, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: D, valueFrom: {}}]}`,
			[]string{
				`agent.env[0].name: Duplicate value: "POD_NAME"`,
				`agent.env[1].name: Invalid value: "A=B": a valid environment variable name must consist`,
				`agent.env[3].name: Duplicate value: "A"`,
				`agent.env[4].name: Invalid value: "": `,
				`agent.env[5].valueFrom: Forbidden: may not be set together with value`,
				`agent.env[6].valueFrom: Forbidden: must name one source, and names 0`,
			},
		},
		"resources that no pod may have": {
			"agent: {resources: {requests: {cpu: -1, memory: 2Gi}, limits: {memory: 1Gi}, claims: [{name: gpu}]}}\n",
			[]string{
				`agent.resources.requests[cpu]: Invalid value: "-1": must not be negative`,
				`agent.resources.requests[memory]: Invalid value: "2Gi": must not be more than the limit of 1Gi`,
				`agent.resources.claims: Forbidden: the agent takes no resource claims`,
			},
		},
		"size limits": {
			"cacerts: {sizeLimit: plenty}\n",
			[]string{`cacerts.sizeLimit: Invalid value: "plenty": expected a quantity such as 1Mi, or "0" for none`},
		},
		"negative size limit": {
			"cacerts: {sizeLimit: -1Mi}\n",
			[]string{`cacerts.sizeLimit: Invalid value: "-1Mi": expected a quantity such as 1Mi, or "0" for none`},
		},
		"ports out of range and taken twice": {
			"server: {port: 70000, healthPort: 8080}\n",
			[]string{
				`server.port: Invalid value: 70000: must be between 1 and 65535`,
				`server.metricsPort: Invalid value: 8080: is already the healthPort`,
			},
		},
		"a bundle endpoint": {
			"namespaces: [mesh]\nserver: {bundleEndpoint: {port: 8080, namespaces: [mesh, istio-system, A], directory: tls}}\n",
			[]string{
				`server.bundleEndpoint.namespaces[2]: Invalid value: "A": a lowercase RFC 1123 label`,
				`server.bundleEndpoint.directory: Invalid value: "tls": expected an absolute path`,
				`server.bundleEndpoint.port: Invalid value: 8080: is already the metricsPort`,
				`server.bundleEndpoint.namespaces[1]: Invalid value: "istio-system": must also be in namespaces, in which the controllers act`,
			},
		},
		"a bundle endpoint's port and default namespace": {
			"namespaces: [mesh]\nserver: {bundleEndpoint: {port: -1}}\n",
			[]string{
				`server.bundleEndpoint.port: Invalid value: -1: must be between 1 and 65535`,
				`server.bundleEndpoint.namespaces[0]: Invalid value: "istio-system": must also be in namespaces, in which the controllers act`,
			},
		},
		"names that no Kubernetes object can have": {
			"server: {bindAddress: localhost, namespace: a.b, webhookConfiguration: A_B, servingCertificate: {secretName: -x, dnsNames: [a.b, 'c d'], directory: tls}}\n",
			[]string{
				`server.bindAddress: Invalid value: "localhost": expected an IP address such as 127.0.0.1`,
				`server.namespace: Invalid value: "a.b": `,
				`server.webhookConfiguration: Invalid value: "A_B": `,
				`server.servingCertificate.dnsNames[1]: Invalid value: "c d": `,
				`server.servingCertificate.secretName: Invalid value: "-x": `,
				`server.servingCertificate.directory: Invalid value: "tls": expected an absolute path`,
			},
		},
		"a caBundle that something else keeps": {
			"server: {servingCertificate: {source: cert-manager, caBundle: /ca.crt}}\n",
			[]string{`server.servingCertificate.caBundle: Forbidden: only with source secret: with cert-manager something else keeps the caBundle`},
		},
		"a caBundle that is no path": {
			"server: {servingCertificate: {source: secret, caBundle: ca.crt}}\n",
			[]string{`server.servingCertificate.caBundle: Invalid value: "ca.crt": expected the absolute path of a PEM file`},
		},
		"namespaces of the agent's rights": {
			"agentRights: {namespaces: ['*', '', istio-system, istio-system], roleBinding: 'a/b'}\n",
			[]string{
				`agentRights.namespaces[0]: Invalid value: "*": `,
				`agentRights.namespaces[1]: Invalid value: "": `,
				`agentRights.namespaces[3]: Duplicate value: "istio-system"`,
				`agentRights.roleBinding: Invalid value: "a/b": `,
			},
		},
		"namespaces of the controllers": {
			"namespaces: ['*', '', istio-system, istio-system]\nagentRights: {namespaces: [istio-system, mesh]}\n",
			[]string{
				`namespaces[0]: Invalid value: "*": `,
				`namespaces[1]: Invalid value: "": `,
				`namespaces[3]: Duplicate value: "istio-system"`,
				`agentRights.namespaces[1]: Invalid value: "mesh": must also be in namespaces, in which the controllers act`,
			},
		},
		"too many namespaces of the controllers": {
			"namespaces: [" + strings.Repeat("'*',", 64) + "x]\n",
			[]string{`namespaces: Too many: 65: must have at most 64 items`},
		},
		"namespaces of VirtualMeshes": {
			"virtualMesh: {namespaces: [gloo-mesh, a.b, '', gloo-mesh]}\n",
			[]string{
				`virtualMesh.namespaces[1]: Invalid value: "a.b": `,
				`virtualMesh.namespaces[2]: Invalid value: "": `,
				`virtualMesh.namespaces[3]: Duplicate value: "gloo-mesh"`,
			},
		},
		"too many namespaces of VirtualMeshes": {
			"virtualMesh: {namespaces: [" + strings.Repeat("'*',", 64) + "x]}\n",
			[]string{`virtualMesh.namespaces: Too many: 65: must have at most 64 items`},
		},
		"durations that are none": {
			"server: {servingCertificate: {caDuration: 1y, leafDuration: 0s}}\n",
			[]string{
				`server.servingCertificate.caDuration: Invalid value: "1y": expected a duration such as 168h or 90m`,
				`server.servingCertificate.leafDuration: Invalid value: "0s": expected a duration such as 168h or 90m`,
			},
		},
		"misfits do not hide what is invalid": {
			"target: pod\nagent: {env: [{nam: A}, {name: a b}]}\nserver: {port: x}\n",
			[]string{
				`agent.env[0].nam: Forbidden: there is no such field`,
				`server.port: Invalid value: "x": expected a whole number, found a string`,
				`target: Unsupported value: "pod"`,
				`agent.env[0].name: Invalid value: ""`,
				`agent.env[1].name: Invalid value: "a b"`,
			},
		},
		"a leaf too short, and a CA that does not outlive it": {
			"server: {servingCertificate: {caDuration: 5s, leafDuration: 10s}}\n",
			[]string{
				`server.servingCertificate.leafDuration: Invalid value: "10s": must be at least 30s`,
				`server.servingCertificate.caDuration: Invalid value: "5s": must be longer than leafDuration, 10s`,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := v1alpha1.Decode([]byte(header + test.config))
			wantMistakes(t, err, test.want)
		})
	}
}

// wantMistakes wants exactly these, each the beginning of what is said.
func wantMistakes(t *testing.T, err error, want []string) {
	t.Helper()
	said, ok := errors.AsType[v1alpha1.MistakesError](err)
	if !ok {
		t.Fatalf("want a list of mistakes, got: %v", err)
	}
	for _, mistake := range want {
		found := false
		for _, e := range said {
			found = found || strings.HasPrefix(e.Error(), mistake)
		}
		if !found {
			t.Errorf("nothing begins with %s", mistake)
		}
	}
	if len(said) != len(want) || t.Failed() {
		t.Errorf("want %d mistakes, got %d:\n%v", len(want), len(said), err)
	}
}

func TestDecodeNotAConfiguration(t *testing.T) {
	t.Parallel()
	const notAMapping = "expected a YAML mapping that starts with apiVersion: config.istiod-agent.io/v1alpha1 and kind: InjectionConfiguration"
	tests := map[string]struct{ config, want string }{
		"an empty file":                  {"", notAMapping},
		"only a comment":                 {"# later\n", notAMapping},
		"only a separator":               {"---\n", notAMapping},
		"a list":                         {"- target: pods\n", notAMapping},
		"plain text":                     {"target", notAMapping},
		"an open brace":                  {"{", "not YAML: "},
		"a tab for indentation":          {header + "agent:\n\timage: a\n", "not YAML: "},
		"bytes that are no text":         {"\xff\xfe\x00", "not YAML: "},
		"a key given twice":              {header + "target: pods\ntarget: deployments\n", `line 4: key "target" already set in map`},
		"a key given twice, deep":        {header + "agent:\n  resources:\n    limits: {cpu: 1, cpu: 2}\n", `key "cpu" already set in map`},
		"another kind":                   {"apiVersion: v1\nkind: ConfigMap\n", `apiVersion: Unsupported value: "v1": supported values: "config.istiod-agent.io/v1alpha1"`},
		"no kind":                        {"apiVersion: config.istiod-agent.io/v1alpha1\n", `kind: Required value: expected "InjectionConfiguration"`},
		"no apiVersion":                  {"kind: InjectionConfiguration\n", `apiVersion: Required value: expected "config.istiod-agent.io/v1alpha1"`},
		"two documents":                  {header + "---\ntarget: pods\n", `expected one YAML document, found another below a line "---"`},
		"a mistake in a second document": {header + "---\n{\n", "not YAML: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := v1alpha1.Decode([]byte(test.config))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want an error that says %s\ngot: %v", test.want, err)
			}
		})
	}
}

func TestDecodeDefaults(t *testing.T) {
	t.Parallel()
	defaults := v1alpha1.Default()
	for name, config := range map[string]string{
		"nothing set":             header,
		"everything null":         header + "target:\nagent:\ncacerts:\nannotate:\nserver:\n",
		"empty mappings":          header + "agent: {}\ncacerts: {}\nserver: {servingCertificate: {dnsNames: []}}\n",
		"comments and separators": "# License\n---\n" + header + "---\n# The end.\n",
		"Windows line ends":       strings.ReplaceAll(header, "\n", "\r\n"),
		"as JSON":                 `{"apiVersion":"config.istiod-agent.io/v1alpha1","kind":"InjectionConfiguration"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := decode(t, config); !equality.Semantic.DeepEqual(got, defaults) {
				t.Errorf("not the defaults (-want +got):\n%s", diff.Diff(defaults, got))
			}
		})
	}
}

func TestDecodeKeepsValues(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		config string
		holds  func(*v1alpha1.InjectionConfiguration) bool
	}{
		"no resources at all": {"agent: {resources: {}}", func(c *v1alpha1.InjectionConfiguration) bool {
			return equality.Semantic.DeepEqual(*c.Agent.Resources, corev1.ResourceRequirements{})
		}},
		"no security context at all": {"agent: {securityContext: {}}", func(c *v1alpha1.InjectionConfiguration) bool {
			return *c.Agent.SecurityContext == corev1.SecurityContext{}
		}},
		"resources replace the default as a whole": {"agent: {resources: {limits: {memory: 64Mi}}}", func(c *v1alpha1.InjectionConfiguration) bool {
			return len(c.Agent.Resources.Requests) == 0 && c.Agent.Resources.Limits.Memory().String() == "64Mi"
		}},
		"an explicit no": {"annotate: false\ninjectExisting: false\nserver: {leaderElection: false}", func(c *v1alpha1.InjectionConfiguration) bool {
			return !*c.Annotate && !*c.InjectExisting && !*c.Server.LeaderElection
		}},
		"no size limit": {`cacerts: {sizeLimit: "0"}`, func(c *v1alpha1.InjectionConfiguration) bool {
			return c.CACerts.SizeLimit == "0"
		}},
		"the certificate's name follows the namespace": {"server: {namespace: pki}", func(c *v1alpha1.InjectionConfiguration) bool {
			names := c.Server.ServingCertificate.DNSNames
			return len(names) == 1 && names[0] == "istiod-agent-webhook.pki.svc"
		}},
		"a name with a dollar and a space stays text": {`agent: {env: [{name: A, value: "$(B) c"}]}`, func(c *v1alpha1.InjectionConfiguration) bool {
			return c.Agent.Env[0].Value == "$(B) c"
		}},
		"an image by digest, from a registry with a port": {
			"agent: {image: 'localhost:5000/a/b:" + strings.Repeat("v", 128) + "@sha256:" + strings.Repeat("a", 64) + "'}",
			func(c *v1alpha1.InjectionConfiguration) bool {
				return strings.HasPrefix(c.Agent.Image, "localhost:5000/a/b:vv")
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if config := decode(t, header+test.config); !test.holds(config) {
				t.Errorf("got %+v", config)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, config := range []string{
		"", header, header + "agent: {env: [{name: A, valeu: x}]}", "- a", "{", header + "---\na: b\n",
		header + "target: pods\nsidecar: native\nagent: {image: a/b@sha256:" + strings.Repeat("0", 64) + ", resources: {limits: {cpu: 1e3}}, securityContext: {}}\ncacerts: {sizeLimit: '0'}\n",
		header + "agent: {env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}], securityContext: {runAsUser: 1337}}\n",
		"a: &a [*a]\n", header + "agent: &x {env: []}\nserver: *x\n", header + "<<: {target: pods}\n",
	} {
		f.Add([]byte(config))
	}
	for _, sample := range []string{"injection.yaml", "injection-gloo-mesh.yaml"} {
		f.Add([]byte(sampleFile(f, sample)))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		config, err := v1alpha1.Decode(content)
		if err != nil {
			return
		}
		if _, err := patches.New(config); err != nil {
			t.Errorf("valid, but cannot be rendered: %v", err)
		}
		// What was understood can be written down and read again.
		written, err := yaml.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		if again := decode(t, string(written)); !equality.Semantic.DeepEqual(again, config) {
			t.Errorf("written and read again it is another (-first +second):\n%s", diff.Diff(config, again))
		}
	})
}

func decode(t *testing.T, config string) *v1alpha1.InjectionConfiguration {
	t.Helper()
	decoded, err := v1alpha1.Decode([]byte(config))
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	return decoded
}
