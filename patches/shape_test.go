// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/patches"
)

// item of a list by its name.
func item(t *testing.T, spec map[string]any, list, name string) map[string]any {
	t.Helper()
	entries, _ := spec[list].([]any)
	for _, entry := range entries {
		if entry := entry.(map[string]any); entry["name"] == name {
			return entry
		}
	}
	t.Fatalf("%s holds no %s", list, name)
	return nil
}

func wantYAML(t *testing.T, got any, want string) {
	t.Helper()
	var wanted any
	if err := json.Unmarshal(toJSON(t, want), &wanted); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, wanted) {
		have, _ := json.Marshal(got)
		t.Errorf("got  %s\nwant %s", have, toJSON(t, want))
	}
}

func TestShapeOfContainers(t *testing.T) {
	t.Parallel()
	spec := podSpec(t, patches.Deployment, inject(t, injector(t, "agent: {image: agent:v1}"), patches.Deployment, edit(t)))
	common := `
image: agent:v1
imagePullPolicy: IfNotPresent
env:
- {name: PILOT_CERT_PROVIDER, value: istiod}
- {name: POD_NAME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}}
- {name: SERVICE_ACCOUNT, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.serviceAccountName}}}
resources: {limits: {memory: 64Mi}, requests: {cpu: 10m, memory: 32Mi}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
- {name: cacerts, mountPath: /etc/cacerts}
- {name: istiod-agent-vault-token, mountPath: /var/run/secrets/istiod-agent.io/vault, readOnly: true}
`
	wantYAML(t, item(t, spec, "initContainers", "istiod-agent-init"), "name: istiod-agent-init\nargs: [init-container]"+common)
	wantYAML(t, item(t, spec, "containers", "istiod-agent"), "name: istiod-agent\nargs: [sidecar]"+common)
	wantYAML(t, item(t, spec, "volumes", "cacerts"), "{name: cacerts, emptyDir: {medium: Memory, sizeLimit: 1Mi}}")
	wantYAML(t, item(t, spec, "volumes", "istiod-agent-vault-token"),
		"{name: istiod-agent-vault-token, projected: {sources: [{serviceAccountToken: {audience: vault, expirationSeconds: 600, path: token}}]}}")
	if mounts := fmt.Sprint(item(t, spec, "containers", "discovery")["volumeMounts"]); strings.Contains(mounts, "vault") {
		t.Errorf("istiod's own container mounts the token for Vault: %s", mounts)
	}

	native := podSpec(t, patches.Deployment, inject(t, injector(t, "sidecar: native\nagent: {image: agent:v1}"), patches.Deployment, edit(t)))
	wantYAML(t, item(t, native, "initContainers", "istiod-agent"), "name: istiod-agent\nargs: [sidecar]\nrestartPolicy: Always\n"+
		"startupProbe: {httpGet: {path: /readyz, port: 15085, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 1, successThreshold: 1, failureThreshold: 3600}"+common)
}

// Both programs must run as one user, or istiod could not read the key.
func TestSettingsUserIDs(t *testing.T) {
	t.Parallel()
	ids := []string{"        image: pilot", "        image: pilot\n        securityContext: {runAsUser: 1337, runAsGroup: 0}"}
	for name, test := range map[string]struct {
		config string
		edit   []string
		user   any
		group  any
	}{
		"set on istiod":             {edit: ids, user: 1337.0, group: 0.0},
		"not set on istiod":         {},
		"root":                      {edit: []string{"        image: pilot", "        image: pilot\n        securityContext: {runAsUser: 0, runAsGroup: 0}"}, group: 0.0},
		"set in the configuration":  {config: "agent: {securityContext: {runAsUser: 7}}", edit: ids, user: 7.0, group: 0.0},
		"no security context asked": {config: "agent: {securityContext: {}}", edit: ids},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := podSpec(t, patches.Deployment, inject(t, injector(t, test.config), patches.Deployment, edit(t, test.edit...)))
			for _, container := range []map[string]any{item(t, spec, "containers", "istiod-agent"), item(t, spec, "initContainers", "istiod-agent-init")} {
				context, _ := container["securityContext"].(map[string]any)
				if context["runAsUser"] != test.user || context["runAsGroup"] != test.group {
					t.Errorf("%s: got user %v and group %v, want %v and %v", container["name"], context["runAsUser"], context["runAsGroup"], test.user, test.group)
				}
			}
		})
	}
}

func TestVolumeName(t *testing.T) {
	t.Parallel()
	spec := podSpec(t, patches.Deployment, inject(t, injector(t, ""), patches.Deployment,
		edit(t, "- {name: cacerts, mountPath", "- {name: my-ca, mountPath", "- {name: cacerts, secret", "- {name: my-ca, secret")))
	wantYAML(t, item(t, spec, "volumes", "my-ca"), "{name: my-ca, emptyDir: {medium: Memory, sizeLimit: 1Mi}}")
	wantYAML(t, item(t, spec, "containers", "istiod-agent")["volumeMounts"], "[{name: my-ca, mountPath: /etc/cacerts}, {name: istiod-agent-vault-token, mountPath: /var/run/secrets/istiod-agent.io/vault, readOnly: true}]")
	if got := names(spec, "volumes"); got != "local-certs my-ca istiod-agent-vault-token" {
		t.Errorf("got volumes %s", got)
	}
}

// What the injection needs to work is put right; what else others changed on it stays.
func TestDrift(t *testing.T) {
	t.Parallel()
	deployment := edit(t)
	sidecar := `"name":"istiod-agent"`
	mount := `"volumeMounts":[{"name":"cacerts","mountPath":"/etc/cacerts"}`
	memory := `"medium":"Memory","sizeLimit":"1Mi"`
	for name, test := range map[string]struct {
		old, new string
		stays    bool
	}{
		"another image":                {`"image":"agent:v1"`, `"image":"mirror.internal/agent:v1"`, true},
		"another pull policy":          {`"imagePullPolicy":"IfNotPresent"`, `"imagePullPolicy":"Always"`, true},
		"another command":              {`"args":["sidecar"]`, `"args":["sidecar","--allow-disk"]`, false},
		"an entry point":               {sidecar, sidecar + `,"command":["/bin/true"]`, false},
		"a variable removed":           {`{"name":"PILOT_CERT_PROVIDER","value":"istiod"},{"name":"POD_NAME"`, `{"name":"POD_NAME"`, false},
		"a variable changed":           {`"fieldPath":"metadata.name"`, `"fieldPath":"metadata.uid"`, false},
		"a variable overridden":        {`"fieldPath":"spec.serviceAccountName"}}}`, `"fieldPath":"spec.serviceAccountName"}}},{"name":"SERVICE_ACCOUNT","value":"x"}`, false},
		"a mount of something else":    {mount, `"volumeMounts":[{"name":"other","mountPath":"/etc/cacerts"}`, false},
		"a mount made read-only":       {mount, `"volumeMounts":[{"name":"cacerts","mountPath":"/etc/cacerts","readOnly":true}`, false},
		"a part of the volume":         {mount, `"volumeMounts":[{"name":"cacerts","mountPath":"/etc/cacerts","subPath":"x"}`, false},
		"a mount within":               {mount, mount + `,{"name":"other","mountPath":"/etc/cacerts/ca-key.pem"}`, false},
		"a device":                     {sidecar, sidecar + `,"volumeDevices":[{"name":"x","devicePath":"/etc/cacerts"}]`, false},
		"a restart policy":             {`"name":"istiod-agent-init"`, `"name":"istiod-agent-init","restartPolicy":"Always"`, false},
		"the volume's limit raised":    {memory, `"medium":"Memory","sizeLimit":"1Gi"`, false},
		"the volume on disk":           {memory, `"sizeLimit":"1Mi"`, false},
		"capabilities":                 {`"drop":["ALL"]`, `"drop":["ALL","NET_RAW"]`, true},
		"a restriction taken back":     {`"allowPrivilegeEscalation":false`, `"allowPrivilegeEscalation":true`, true},
		"a flag by its variable":       {`{"name":"POD_NAME"`, `{"name":"ISTIOD_AGENT_CACERTS_DIR","value":"/tmp"},{"name":"POD_NAME"`, false},
		"another API server":           {`{"name":"POD_NAME"`, `{"name":"KUBECONFIG","value":"/tmp/x"},{"name":"POD_NAME"`, false},
		"variables from a ConfigMap":   {sidecar, sidecar + `,"envFrom":[{"configMapRef":{"name":"x"}}]`, false},
		"a file over Vault's token":    {mount, mount + `,{"name":"local-certs","mountPath":"/var/run/secrets/istiod-agent.io/vault/token"}`, false},
		"a mount of no volume":         {mount, mount + `,{"name":"gone","mountPath":"/x"}`, false},
		"a mount of another volume":    {mount, mount + `,{"name":"local-certs","mountPath":"/x"}`, true},
		"a terminal added":             {sidecar, sidecar + `,"tty":true`, true},
		"a variable added":             {`{"name":"POD_NAME"`, `{"name":"AWS_ROLE_ARN","value":"x"},{"name":"POD_NAME"`, true},
		"a token mount added":          {mount, mount + `,{"name":"kube-api-access-x","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}`, true},
		"a user assigned":              {`"runAsNonRoot":true`, `"runAsNonRoot":true,"runAsUser":1000650000`, true},
		"a limit added":                {`"limits":{"memory"`, `"limits":{"cpu":"1","memory"`, true},
		"a limit raised":               {`"limits":{"memory":"64Mi"}`, `"limits":{"memory":"1Gi"}`, true},
		"a field of tomorrow":          {sidecar, sidecar + `,"tomorrow":{"a":[1.50]}`, true},
		"the token's audience changed": {`"audience":"vault"`, `"audience":"https://kubernetes.default.svc"`, false},
		"the token's life raised":      {`"expirationSeconds":600`, `"expirationSeconds":31536000`, false},
		"the digest of another":        {`"istiod-agent.io/injected":"`, `"istiod-agent.io/injected":"0`, false},
		"a container twice":            {`"containers":[`, `"containers":[{"name":"istiod-agent"},`, false},
	} {
		for _, config := range []string{"target: deployments", "target: pods"} {
			t.Run(name+"/"+config, func(t *testing.T) {
				t.Parallel()
				i := injector(t, config+"\nagent: {image: 'agent:v1'}")
				object, kind := deployment, patches.Deployment
				if i.Target() == patches.Pod {
					object, kind = podOf(t, deployment), patches.Pod
				}
				injected := inject(t, i, kind, object)
				drifted := []byte(strings.Replace(string(injected), test.old, test.new, 1))
				if string(drifted) == string(injected) {
					t.Fatalf("%q is not in %s", test.old, injected)
				}
				result := i.Inject(kind, drifted)
				if (len(result.Operations) == 0) != test.stays {
					t.Fatalf("got %s with %v, want it to stay: %t", result.Reason, result.Changes, test.stays)
				}
				if mended := apply(t, drifted, result.Operations); !test.stays && !sameLists(t, mended, injected) {
					t.Errorf("got  %s\nwant %s", mended, injected)
				}
				if state, _ := i.Inspect(kind, drifted); (state == patches.StateInjected) != test.stays {
					t.Errorf("it is %s, and what was changed stays: %t", state, test.stays)
				}
			})
		}
	}
}

// sameLists tells whether both objects are the same, but for the order of variables and mounts.
func sameLists(t *testing.T, a, b []byte) bool {
	t.Helper()
	sorted := func(raw []byte) []byte {
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			t.Fatal(err)
		}
		var walk func(any)
		walk = func(value any) {
			switch value := value.(type) {
			case map[string]any:
				for _, member := range value {
					walk(member)
				}
			case []any:
				slices.SortStableFunc(value, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				for _, member := range value {
					walk(member)
				}
			}
		}
		walk(value)
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	return same(t, sorted(a), sorted(b))
}

func TestAPIServerDefaults(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"", "sidecar: native", "agent: {env: [{name: X, valueFrom: {fieldRef: {fieldPath: status.podIP}}}], resources: {requests: {cpu: '0.010'}}}"} {
		i := injector(t, config)
		stored := string(inject(t, i, patches.Deployment, edit(t)))
		for _, pair := range [][2]string{
			{`"name":"istiod-agent"`, `"name":"istiod-agent","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"`},
			{`"projected":{"sources"`, `"projected":{"defaultMode":420,"sources"`},
			{`"fieldRef":{"fieldPath":"status.podIP"}`, `"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIP"}`},
			{`"name":"istiod-agent"`, `"fieldOfTomorrow":"Default","name":"istiod-agent"`},
		} {
			stored = strings.Replace(stored, pair[0], pair[1], 1)
		}
		if result := i.Inject(patches.Deployment, []byte(stored)); result.Reason != patches.AlreadyInjected {
			t.Errorf("%q: got %s: %v", config, result.Reason, result.Changes)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	if a, b := injector(t, "").Digest(), injector(t, "rollout: automatic\nserver: {port: 1}").Digest(); a != b {
		t.Errorf("the digest depends on what is not injected: %s and %s", a, b)
	}
	seen := map[string]string{}
	for _, config := range []string{"", "sidecar: native", "agent: {image: x}", "cacerts: {sizeLimit: 2Mi}", "agent: {resources: {}}", "agent: {securityContext: {}}", "agent: {env: [{name: X}]}", "agent: {imagePullPolicy: Always}"} {
		digest := injector(t, config).Digest()
		if other, ok := seen[digest]; ok {
			t.Errorf("%q and %q have the same digest", config, other)
		}
		seen[digest] = config
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	i, later := injector(t, ""), injector(t, "agent: {image: later}")
	object := edit(t)
	injected := inject(t, i, patches.Deployment, object)
	for name, test := range map[string]struct {
		injector *patches.Injector
		object   []byte
		want     patches.State
	}{
		"never injected":       {i, object, patches.StateMissing},
		"injected":             {i, injected, patches.StateInjected},
		"an earlier injection": {later, injected, patches.StateOutdated},
		"cannot be injected":   {i, edit(t, "{name: PILOT_CERT_PROVIDER, value: istiod}", "{name: ROOT_CA_DIR, value: /elsewhere}"), patches.StateMissing},
		"has no use for it":    {i, edit(t, "{name: PILOT_CERT_PROVIDER, value: istiod}", "{name: ENABLE_CA_SERVER, value: '0'}"), patches.StateSkipped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if state, result := test.injector.Inspect(patches.Deployment, test.object); state != test.want {
				t.Errorf("got %s (%s), want %s", state, result.Message, test.want)
			}
		})
	}
}
