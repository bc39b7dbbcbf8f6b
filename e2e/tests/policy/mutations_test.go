// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

type (
	object = map[string]any
	items  = []any
)

// podOf a Deployment or Pod.
func podOf(o object) (template, spec object) {
	template = o
	if o["kind"] == "Deployment" {
		template = o["spec"].(object)["template"].(object)
	}
	return template, template["spec"].(object)
}

func named(list any, name string) object {
	l, _ := list.(items)
	for _, entry := range l {
		if entry := entry.(object); entry["name"] == name {
			return entry
		}
	}
	return nil
}

func without(list any, name string) items {
	l, _ := list.(items)
	return slices.DeleteFunc(slices.Clone(l), func(entry any) bool { return entry.(object)["name"] == name })
}

func appended(o object, key string, entries ...any) {
	l, _ := o[key].(items)
	o[key] = append(slices.Clone(l), entries...)
}

func parsed(text string) any {
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		panic(text + ": " + err.Error())
	}
	return value
}

// istiodIn a pod spec, or some container where none is called discovery.
func istiodIn(spec object) object {
	if c := named(spec["containers"], "discovery"); c != nil {
		return c
	}
	containers := spec["containers"].(items)
	return containers[0].(object)
}

// agentsIn a pod spec.
func agentsIn(spec object) []object {
	var found []object
	for _, list := range []string{"initContainers", "containers"} {
		for _, name := range []string{"istiod-agent-init", "istiod-agent"} {
			if c := named(spec[list], name); c != nil {
				found = append(found, c)
			}
		}
	}
	return found
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// Sources that somebody's volume may have.
var sources = []string{
	`{"secret": {"secretName": "cacerts", "optional": true, "defaultMode": 420}}`, `{"secret": {"secretName": "cacerts", "optional": true, "defaultMode": 420}}`,
	`{"secret": {"secretName": "my-ca", "defaultMode": 420}}`, `{"secret": {"secretName": "my-ca", "defaultMode": 256, "optional": false}}`,
	`{"secret": {"secretName": "my-ca", "defaultMode": 420, "items": [{"key": "a", "path": "b"}]}}`,
	`{"configMap": {"name": "my-ca", "defaultMode": 420}}`, `{"hostPath": {"path": "/ca", "type": ""}}`, `{"emptyDir": {}}`, `{"emptyDir": {"medium": "Memory"}}`,
	`{"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}`, `{"emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}`,
	`{"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": true}}`,
	`{"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": true, "volumeAttributes": {"secretProviderClass": "mesh-ca"}}}`,
	`{"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}, "secret": {"secretName": "cacerts", "optional": true, "defaultMode": 420}}`,
	`{"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}, "configMap": {"name": "ca", "defaultMode": 420}}`,
	`{"projected": {"defaultMode": 420, "sources": [{"secret": {"name": "my-ca"}}]}}`,
}

// Notes that an earlier injection, another version or somebody may have left.
var notes = []string{
	"", "{}", `{"volume":null}`, `{"volume":null,"mountAdded":true,"rootCADirAdded":true}`, `{"rootCADirAdded":true}`, `{"multiRootAdded":true,"rootCADirAdded":true}`,
	`{"rootCADirAdded":true,"user":1000,"group":1000}`, `{"user":1337}`, `{"volume":{"name":"cacerts","secret":{"defaultMode":420,"secretName":"my-ca"}},"rootCADirAdded":true}`,
	`{"volume":{"configMap":{"defaultMode":420,"name":"ca"},"name":"cacerts"}}`, `{"volume":{"name":"other","secret":{"secretName":"x"}}}`, "nonsense", "{", "[]",
	`{"volume":{"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"},"name":"cacerts"},"rootCADirAdded":true}`, `{"volume":{"emptyDir":{},"name":"cacerts"}}`,
	`{"volume":{"csi":{"driver":"d","volumeAttributes":{"a":"b:c"}},"name":"cacerts"},"mountAdded":true}`,
}

// Texts that a message shows as they are, or not at all.
var odd = []string{"plain", "no", "a\nb", "\x1b[31mred", `"quoted" \ 'text'`, "Käse", strings.Repeat("x", 200), strings.Repeat("x", 6000), "\u202e", "%s%n"}

const ownImage = "ghcr.io/istiod-agent/istiod-agent:0.1.0"

// near /etc/cacerts, as people may write it.
var near = []string{"/etc/cacerts", "/etc/cacerts/", "/etc/./cacerts", "etc/cacerts", "//etc//cacerts", "/etc/cacerts/x", "/etc", "/", "/etc/../etc/cacerts", "/etc/cacerts-old", "/x/../y"}

// edits of a Deployment or Pod, by what they change. Each leaves an object that an API server could be sent.
var edits = map[string]func(r *rand.Rand, o object){
	"volume": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		name := pick(r, "cacerts", "cacerts", "my-ca", "istiod-agent-cacerts")
		source := parsed(pick(r, sources...)).(object)
		source["name"] = name
		spec["volumes"] = append(without(spec["volumes"], name), source)
	},
	"volume in place": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		if v := named(spec["volumes"], "cacerts"); v != nil {
			clear(v)
			maps.Copy(v, parsed(pick(r, sources...)).(object))
			v["name"] = "cacerts"
		}
	},
	"no volume": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["volumes"] = without(spec["volumes"], pick(r, "cacerts", "istiod-agent-vault-token"))
	},
	"no volumes": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		delete(spec, "volumes")
		for _, list := range []string{"containers", "initContainers"} {
			l, _ := spec[list].(items)
			for _, c := range l {
				if r.IntN(2) == 0 {
					delete(c.(object), "volumeMounts")
				}
			}
		}
	},
	"mount": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		c := istiodIn(spec)
		mounts := without(c["volumeMounts"], "cacerts")
		switch mount := (object{"name": pick(r, "cacerts", "cacerts", "my-ca"), "mountPath": pick(r, "/etc/cacerts", "/etc/cacerts", pick(r, near...)), "readOnly": true}); r.IntN(4) {
		case 0:
			c["volumeMounts"] = mounts
		case 1:
			mount["subPath"] = "x"
			c["volumeMounts"] = append(mounts, mount)
		default:
			c["volumeMounts"] = append(items{mount}, mounts...)
		}
	},
	"second mount": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		appended(istiodIn(spec), "volumeMounts", object{"name": "cacerts", "mountPath": pick(r, near...)})
	},
	"istiod without mounts": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		delete(istiodIn(spec), "volumeMounts")
	},
	"device": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		istiodIn(spec)["volumeDevices"] = items{object{"name": "disk", "devicePath": pick(r, "/dev/x", "/etc/cacerts/key")}}
	},
	"token mount": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["automountServiceAccountToken"] = false
		appended(spec, "volumes", object{"name": "api-token", "emptyDir": object{}})
		appended(istiodIn(spec), "volumeMounts", object{"name": "api-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" + pick(r, "", "/"), "readOnly": true})
	},
	"no token": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["automountServiceAccountToken"] = false
	},
	"odd text": func(r *rand.Rand, o object) { // which a message would show
		_, spec := podOf(o)
		c, text := istiodIn(spec), pick(r, odd...)
		switch r.IntN(5) {
		case 0:
			appended(c, "env", object{"name": pick(r, "ROOT_CA_DIR", "ISTIO_MULTIROOT_MESH"), "value": text})
		case 1:
			appended(c, "env", object{"name": "EXTERNAL_CA", "value": text}, object{"name": "PILOT_CERT_PROVIDER", "value": "k8s.io/" + text})
		case 2:
			c["workingDir"] = "/" + text
			appended(c, "env", object{"name": "ROOT_CA_DIR", "value": "./etc/cacerts"})
		case 3:
			appended(c, "volumeMounts", object{"name": "cacerts", "mountPath": "/etc/cacerts/" + text})
		default:
			meta := o["metadata"].(object)
			annotations, _ := meta["annotations"].(object)
			if annotations == nil {
				annotations = object{}
			}
			annotations["istiod-agent.io/inject"] = text
			meta["annotations"] = annotations
		}
	},
	"variable": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		v := object{"name": pick(r, "ROOT_CA_DIR", "ISTIO_MULTIROOT_MESH", "DEFAULT_WORKLOAD_CERT_TTL", "ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER")}
		switch v["name"] {
		case "ROOT_CA_DIR":
			v["value"] = pick(r, "/etc/cacerts", "/etc/cacerts", "./etc/cacerts", "", "/x", "/etc/cacerts$(X)", "etc/cacerts/")
		case "PILOT_CERT_PROVIDER":
			v["value"] = pick(r, "istiod", "k8s.io/x", "kubernetes")
		default:
			v["value"] = pick(r, "true", "false", "1", "F", "", "24h", "$(X)", "yes")
		}
		if r.IntN(6) == 0 {
			delete(v, "value")
			v["valueFrom"] = object{"configMapKeyRef": object{"name": "a", "key": "b"}}
		}
		c := istiodIn(spec)
		if r.IntN(2) == 0 {
			appended(c, "env", v)
		} else {
			c["env"] = append(items{v}, without(c["env"], v["name"].(string))...)
		}
	},
	"no variables": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		delete(istiodIn(spec), "env")
	},
	"no variable": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		c := istiodIn(spec)
		c["env"] = without(c["env"], pick(r, "ROOT_CA_DIR", "ISTIO_MULTIROOT_MESH"))
	},
	"envFrom": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		istiodIn(spec)["envFrom"] = items{object{"secretRef": object{"name": "a"}}}
	},
	"workingDir": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		istiodIn(spec)["workingDir"] = pick(r, "/", "/x", "./", "/..")
	},
	"ids": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		security := object{}
		if r.IntN(3) > 0 {
			security["runAsUser"] = float64(pick(r, 0, 1000, 1337))
		}
		if r.IntN(3) > 0 {
			security["runAsGroup"] = float64(pick(r, 0, 1000))
		}
		if r.IntN(2) == 0 {
			security["capabilities"] = parsed(pick(r, `{"drop": ["ALL"]}`, `{"drop": ["DAC_OVERRIDE"]}`, `{"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}`))
		}
		istiodIn(spec)["securityContext"] = security
		if r.IntN(3) == 0 {
			spec["securityContext"] = object{"runAsUser": float64(pick(r, 0, 1000))}
		}
	},
	"another istiod": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		c := object{"name": pick(r, "second", "helper"), "image": "pilot", "args": items{pick(r, "discovery", "proxy")}}
		if r.IntN(2) == 0 {
			c["volumeMounts"] = items{object{"name": pick(r, "cacerts", "my-ca"), "mountPath": pick(r, "/etc/cacerts", "/x")}}
		}
		list := pick(r, "containers", "initContainers")
		l, _ := spec[list].(items)
		spec[list] = append(items{c}, without(l, c["name"].(string))...)
	},
	"istiod's name": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		if c := named(spec["containers"], "discovery"); c != nil {
			c["name"] = "pilot"
		}
	},
	"opt-out": func(r *rand.Rand, o object) {
		meta := o["metadata"].(object)
		key := pick(r, "annotations", "annotations", "labels")
		m, _ := meta[key].(object)
		if m == nil {
			m = object{}
		}
		m["istiod-agent.io/inject"] = pick(r, "false", "false", "true", "no")
		meta[key] = m
	},
	"digest": func(r *rand.Rand, o object) {
		template, _ := podOf(o)
		meta, _ := template["metadata"].(object)
		if annotations, ok := meta["annotations"].(object); ok {
			if r.IntN(2) == 0 {
				delete(annotations, "istiod-agent.io/injected")
			} else {
				annotations["istiod-agent.io/injected"] = "0123456789abcdef"
			}
		}
	},
	"note": func(r *rand.Rand, o object) {
		template, _ := podOf(o)
		meta, ok := pick(r, o["metadata"], template["metadata"]).(object)
		if !ok {
			return
		}
		annotations, _ := meta["annotations"].(object)
		if annotations == nil {
			annotations = object{}
		}
		annotations["istiod-agent.io/original"] = pick(r, notes...)
		meta["annotations"] = annotations
	},
	"no annotations": func(r *rand.Rand, o object) {
		template, _ := podOf(o)
		meta, _ := pick(r, o["metadata"], template["metadata"]).(object)
		delete(meta, "annotations")
	},
	"agent dropped": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		list := pick(r, "containers", "initContainers")
		spec[list] = without(spec[list], pick(r, "istiod-agent", "istiod-agent-init"))
	},
	"agent by hand": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		name := pick(r, "istiod-agent", "istiod-agent-init")
		if slices.ContainsFunc(agentsIn(spec), func(c object) bool { return c["name"] == name }) {
			return
		}
		c := object{
			"name": name, "image": pick(r, ownImage, "gcr.io/gloo-mesh/istiod-agent:1.2.0"), "args": items{"sidecar"},
			"volumeMounts": items{object{"name": "cacerts", "mountPath": "/etc/cacerts"}},
		}
		list := pick(r, "containers", "initContainers")
		if list == "initContainers" && r.IntN(2) == 0 {
			c["restartPolicy"] = "Always"
		}
		l, _ := spec[list].(items)
		spec[list] = slices.Insert(slices.Clone(l), r.IntN(len(l)+1), any(c))
	},
	"order": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		l, _ := spec[pick(r, "containers", "initContainers", "volumes")].(items)
		r.Shuffle(len(l), func(a, b int) { l[a], l[b] = l[b], l[a] })
	},
	"other init container": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["initContainers"] = append(items{object{"name": "first", "image": "busybox"}}, without(spec["initContainers"], "first")...)
	},
	"other container": func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["containers"] = append(without(spec["containers"], "last"), object{"name": "last", "image": "busybox", "volumeMounts": items{object{"name": "cacerts", "mountPath": "/x"}}})
	},
	"pod resources": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["resources"] = parsed(pick(r, `{"limits": {"cpu": "2", "memory": "4Gi"}}`, `{"requests": {"cpu": "500m"}, "limits": {"memory": "32Mi"}}`, `{"requests": {"memory": "2Gi"}}`))
	},
	"agent": func(r *rand.Rand, o object) {
		_, spec := podOf(o)
		for _, c := range agentsIn(spec) {
			for range 1 + r.IntN(3) {
				agentEdits[r.IntN(len(agentEdits))](r, c)
			}
		}
	},
}

// agentEdits are what other webhooks and people do to a container of the agent's.
var agentEdits = []func(r *rand.Rand, c object){
	func(r *rand.Rand, c object) {
		c["image"] = pick(r, ownImage, "mirror.internal/"+ownImage, "mirror.internal/istiod-agent/istiod-agent@sha256:0123", ownImage+"@sha256:0123", "gcr.io/gloo-mesh/istiod-agent:1.2.0",
			"gcr.io/gloo-mesh/istiod-agent", "mirror.internal:5000/x/istiod-agent:0.1.0", "other", "a/b:c")
	},
	func(r *rand.Rand, c object) { c["imagePullPolicy"] = pick(r, "Always", "Never", "IfNotPresent") },
	func(_ *rand.Rand, c object) { c["command"] = items{"sh"} },
	func(r *rand.Rand, c object) { c["args"] = pick(r, items{"sidecar"}, items{"init-container"}, items{}) },
	func(_ *rand.Rand, c object) { c["envFrom"] = items{object{"secretRef": object{"name": "a"}}} },
	func(r *rand.Rand, c object) {
		appended(c, "env", object{"name": pick(r, "POD_NAME", "KUBECONFIG", "ISTIOD_AGENT_SPEC", "HTTPS_PROXY", "DEFAULT_WORKLOAD_CERT_TTL", "ISTIO_MULTIROOT_MESH", "EXTRA"), "value": pick(r, "x", "true")})
	},
	func(r *rand.Rand, c object) {
		c["env"] = without(c["env"], pick(r, "POD_NAME", "PILOT_CERT_PROVIDER", "SERVICE_ACCOUNT", "EXTRA"))
	},
	func(_ *rand.Rand, c object) { delete(c, "env") },
	func(r *rand.Rand, c object) {
		appended(c, "volumeMounts", object{"name": pick(r, "kube-api-access-x", "gone", "local-certs", "cacerts"), "mountPath": pick(r,
			"/var/run/secrets/kubernetes.io/serviceaccount", "/var/run/secrets/istiod-agent.io/vault/", "/var/run/secrets/istiod-agent.io", "/data", pick(r, near...))})
	},
	func(r *rand.Rand, c object) {
		c["volumeMounts"] = without(c["volumeMounts"], pick(r, "cacerts", "istiod-agent-vault-token"))
	},
	func(_ *rand.Rand, c object) { delete(c, "volumeMounts") },
	func(r *rand.Rand, c object) {
		mounts, _ := c["volumeMounts"].(items)
		if len(mounts) > 0 {
			mounts[r.IntN(len(mounts))].(object)[pick(r, "readOnly", "readOnly", "subPath")] = true
		}
		for _, m := range mounts {
			if m := m.(object); m["subPath"] == true {
				m["subPath"] = "x"
			}
		}
	},
	func(_ *rand.Rand, c object) {
		c["volumeDevices"] = items{object{"name": "disk", "devicePath": "/dev/x"}}
	},
	func(r *rand.Rand, c object) {
		c["resources"] = parsed(pick(r, `{}`, `{"requests": {"cpu": "20m"}, "limits": {"cpu": "1", "memory": "128Mi"}}`, `{"requests": {"memory": "96Mi"}}`, `{"limits": {"memory": "16Mi"}}`,
			`{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi", "cpu": "5m"}}`))
	},
	func(r *rand.Rand, c object) {
		c["securityContext"] = parsed(pick(r, `{}`, `{"runAsUser": 1000}`, `{"runAsUser": 1337, "runAsGroup": 1000}`, `{"capabilities": {"add": ["NET_RAW"], "drop": ["ALL", "X"]}, "runAsNonRoot": true}`,
			`{"privileged": false, "seccompProfile": {"type": "Unconfined"}}`, `{"capabilities": {}, "readOnlyRootFilesystem": false}`))
	},
	func(_ *rand.Rand, c object) { delete(c, "securityContext") },
	func(r *rand.Rand, c object) {
		if c["restartPolicy"] == "Always" {
			c["startupProbe"] = parsed(pick(r, `{"httpGet": {"path": "/readyz", "port": 15085, "scheme": "HTTP"}, "failureThreshold": 9999, "periodSeconds": 7, "timeoutSeconds": 1, "successThreshold": 1}`,
				`{"httpGet": {"path": "/readyz", "port": 15085, "scheme": "HTTP"}, "failureThreshold": 3, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1}`,
				`{"exec": {"command": ["true"]}, "failureThreshold": 3, "periodSeconds": 1, "timeoutSeconds": 1, "successThreshold": 1}`))
		}
	},
	func(_ *rand.Rand, c object) { delete(c, "startupProbe") },
	func(_ *rand.Rand, c object) { delete(c, "restartPolicy") },
	func(_ *rand.Rand, c object) { c["terminationMessagePolicy"] = "FallbackToLogsOnError" },
}

// mutate an object by a few edits; the description names them.
func mutate(r *rand.Rand, o object) string {
	names := make([]string, 0, len(edits))
	for name := range edits {
		names = append(names, name)
	}
	slices.Sort(names)
	var made []string
	for range 1 + r.IntN(4) {
		name := names[r.IntN(len(names))]
		edits[name](r, o)
		made = append(made, name)
	}
	return fmt.Sprint(strings.Join(made, ", "))
}
