// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// object is what the decision needs of a Deployment or Pod: where things are
// and what they are called. Everything else stays unread.
type object struct {
	kind     Kind
	deleting bool
	// inject is the object's own istiod-agent.io/inject, "" when unset.
	inject string

	// pod and podMeta are JSON pointers to the pod's spec and metadata.
	pod, podMeta string
	hasPodMeta   bool
	annotations  gjson.Result

	initContainers, containers, volumes list
	// defaulted tells that the pod spec has been through an API server.
	defaulted bool

	istiod *istiod
}

// list is a list of named things at a JSON pointer.
type list struct {
	at     string
	exists bool
	items  []named
}

type named struct {
	name string
	raw  gjson.Result
}

// istiod is istiod's own container.
type istiod struct {
	index   int
	name    string
	volume  string // of the mount at /etc/cacerts; "" when there is none
	subPath string // of that mount
	within  string // a mount below /etc/cacerts, which would hide the agent's file
	mounts  gjson.Result
	env     map[string]string
	// user and group ids that the container's security context sets; nil when unset.
	user, group *int64
}

// read finds the places. It returns nil when the object has no pod spec.
func read(kind Kind, raw []byte) *object {
	o := &object{kind: kind, pod: "/spec", podMeta: "/metadata"}
	var meta, spec, podMeta gjson.Result
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		switch key.String() {
		case "metadata":
			meta = value
		case "spec":
			spec = value
		}
		return true
	})
	podMeta = meta
	if kind == Deployment {
		o.pod, o.podMeta = "/spec/template/spec", "/spec/template/metadata"
		template := spec.Get("template")
		podMeta, spec = template.Get("metadata"), template.Get("spec")
	}
	if !spec.IsObject() {
		return nil
	}

	o.readMeta(meta)
	o.hasPodMeta = podMeta.IsObject()
	o.annotations = podMeta.Get("annotations")

	o.initContainers.at, o.containers.at, o.volumes.at = o.pod+"/initContainers", o.pod+"/containers", o.pod+"/volumes"
	var dnsPolicy, schedulerName bool
	spec.ForEach(func(key, value gjson.Result) bool {
		switch key.String() {
		case "initContainers":
			o.initContainers.read(value)
		case "containers":
			o.containers.read(value)
		case "volumes":
			o.volumes.read(value)
		case "dnsPolicy":
			dnsPolicy = true
		case "schedulerName":
			schedulerName = true
		}
		return true
	})
	// Both are set on every pod spec that an API server has stored
	// (SetDefaults_PodSpec, pkg/apis/core/v1/defaults.go, Kubernetes 1.37),
	// and by hardly anybody by hand.
	o.defaulted = dnsPolicy && schedulerName
	o.istiod = findIstiod(o.containers.items)
	return o
}

func (o *object) readMeta(meta gjson.Result) {
	var annotation, label string
	meta.ForEach(func(key, value gjson.Result) bool {
		switch key.String() {
		case "deletionTimestamp":
			o.deleting = value.Type != gjson.Null
		case "annotations":
			annotation = member(value, InjectKey).String()
		case "labels":
			label = member(value, InjectKey).String()
		}
		return true
	})
	o.inject = annotation
	if label == "false" || annotation == "" {
		o.inject = label
	}
	if annotation == "false" {
		o.inject = annotation
	}
}

func (l *list) read(value gjson.Result) {
	l.exists = value.IsArray()
	value.ForEach(func(_, item gjson.Result) bool {
		l.items = append(l.items, named{name: item.Get("name").String(), raw: item})
		return true
	})
}

// index of the thing with this name, -1 when there is none.
func (l *list) index(name string) int {
	for i, item := range l.items {
		if item.name == name {
			return i
		}
	}
	return -1
}

// findIstiod prefers, among the containers that mount /etc/cacerts, the one
// called discovery; else takes discovery; the agent's own never counts.
func findIstiod(containers []named) *istiod {
	var mounting, discovery *istiod
	for i, c := range containers {
		if isAgent(c.name) {
			continue
		}
		candidate := readIstiod(i, c)
		if c.name == IstiodContainer {
			discovery = candidate
		}
		if candidate.volume != "" && (mounting == nil || c.name == IstiodContainer) {
			mounting = candidate
		}
	}
	found := mounting
	if found == nil {
		found = discovery
	}
	if found != nil {
		found.readEnv(containers[found.index].raw.Get("env"))
	}
	return found
}

func readIstiod(index int, c named) *istiod {
	found := &istiod{index: index, name: c.name}
	c.raw.ForEach(func(key, value gjson.Result) bool {
		switch key.String() {
		case "volumeMounts":
			found.mounts = value
			value.ForEach(func(_, mount gjson.Result) bool {
				at := path.Clean(mount.Get("mountPath").String())
				switch {
				case at == CACertsPath:
					found.volume = mount.Get("name").String()
					found.subPath = mount.Get("subPath").String() + mount.Get("subPathExpr").String()
				case strings.HasPrefix(at, CACertsPath+"/"):
					found.within = at
				}
				return true
			})
		case "securityContext":
			found.user, found.group = id(value.Get("runAsUser")), id(value.Get("runAsGroup"))
		}
		return true
	})
	return found
}

func id(value gjson.Result) *int64 {
	if value.Type != gjson.Number {
		return nil
	}
	return new(value.Int())
}

// readEnv keeps the variables that the decision asks about; of a variable that
// is set twice the last one counts, as in the container's process.
func (i *istiod) readEnv(env gjson.Result) {
	i.env = map[string]string{}
	env.ForEach(func(_, variable gjson.Result) bool {
		switch name := variable.Get("name").String(); name {
		case "ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER", "ROOT_CA_DIR":
			i.env[name] = variable.Get("value").String()
		}
		return true
	})
}

// builtInCAOff names the setting that turns istiod's built-in CA off, "" when
// it is on (maybeCreateCA and isK8SSigning, pilot/pkg/bootstrap/server.go,
// Istio 1.31).
func (i *istiod) builtInCAOff() string {
	if on, err := strconv.ParseBool(i.env["ENABLE_CA_SERVER"]); err == nil && !on {
		return "ENABLE_CA_SERVER=" + i.env["ENABLE_CA_SERVER"]
	}
	if provider := i.env["PILOT_CERT_PROVIDER"]; i.env["EXTERNAL_CA"] != "" && strings.HasPrefix(provider, "k8s.io/") {
		return fmt.Sprintf("EXTERNAL_CA=%s with PILOT_CERT_PROVIDER=%s", i.env["EXTERNAL_CA"], provider)
	}
	return ""
}

// readsElsewhere says why istiod would not see the files that the agent
// publishes in its volume, "" when it would. Such an istiod would start with a
// root of its own.
func (i *istiod) readsElsewhere() string {
	switch dir := i.env["ROOT_CA_DIR"]; {
	case dir != "" && path.Join("/", dir) != CACertsPath:
		return "ROOT_CA_DIR is " + dir + "; unset it"
	case i.subPath != "":
		return fmt.Sprintf("container %s mounts %s with subPath %s; mount the whole volume", i.name, CACertsPath, i.subPath)
	case i.within != "":
		return fmt.Sprintf("container %s mounts something at %s, which hides the agent's file; remove that mount", i.name, i.within)
	}
	return ""
}

func (o *object) hasAgent() bool {
	for _, l := range []list{o.containers, o.initContainers} {
		for _, c := range l.items {
			if isAgent(c.name) {
				return true
			}
		}
	}
	return false
}

func isAgent(container string) bool {
	return container == AgentContainer || container == InitContainer
}

// member of an object by its literal name, which gjson's paths would take apart
// at dots.
func member(object gjson.Result, name string) (found gjson.Result) {
	object.ForEach(func(key, value gjson.Result) bool {
		if key.String() == name {
			found = value
		}
		return found.Raw == ""
	})
	return found
}
