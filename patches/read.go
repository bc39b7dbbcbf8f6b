// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// object is what the decision needs of a Deployment or Pod: where things are
// and what they are called. Everything else stays unread.
type object struct {
	kind     Kind
	deleting bool
	// inject is the object's own istiod-agent.io/inject, "" when unset.
	inject string

	// pod and podMeta are JSON pointers to the pod's spec and metadata.
	pod, podMeta   string
	hasPodMeta     bool
	hasAnnotations bool
	annotations    map[string]string

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
	raw  []byte
}

// istiod is istiod's own container.
type istiod struct {
	index     int
	name      string
	volume    string // of the mount at /etc/cacerts; "" when there is none
	subPath   string // of that mount
	within    string // a mount below /etc/cacerts, which would hide the agent's file
	hasMounts bool
	mounts    []mount
	env       map[string]string
	// user and group ids that the container's security context sets; nil when unset.
	user, group *int64
}

type mount struct{ volume, path, subPath string }

// read finds the places in one walk. It returns nil when the object has no pod spec.
func read(kind Kind, raw []byte) *object {
	o := &object{kind: kind, pod: "/spec", podMeta: "/metadata"}
	if kind == Deployment {
		o.pod, o.podMeta = "/spec/template/spec", "/spec/template/metadata"
	}
	o.initContainers.at, o.containers.at, o.volumes.at = o.pod+"/initContainers", o.pod+"/containers", o.pod+"/volumes"

	c := &cursor{text: raw}
	hasPod := false
	c.object(func(key []byte) {
		switch string(key) {
		case "metadata":
			o.readMeta(c)
		case "spec":
			if kind == Pod {
				hasPod = o.readPod(c)
				return
			}
			c.object(func(key []byte) {
				if string(key) != "template" {
					return
				}
				c.object(func(key []byte) {
					switch string(key) {
					case "metadata":
						o.readPodMeta(c)
					case "spec":
						hasPod = o.readPod(c)
					}
				})
			})
		}
	})
	if c.err != nil || !hasPod {
		return nil
	}
	o.istiod = findIstiod(o.containers.items)
	return o
}

// readMeta reads the object's own metadata, which a Pod's is too.
func (o *object) readMeta(c *cursor) {
	own := object{}
	own.hasPodMeta = c.peek() == '{'
	var label string
	c.object(func(key []byte) {
		switch string(key) {
		case "deletionTimestamp":
			o.deleting = c.peek() != 'n'
		case "annotations":
			own.readAnnotations(c)
		case "labels":
			c.object(func(key []byte) {
				if string(key) == InjectKey {
					label = string(c.string())
				}
			})
		}
	})
	o.inject = own.annotations[InjectKey]
	if o.inject == "" || label == "false" {
		o.inject = label
	}
	if o.kind == Pod {
		o.hasPodMeta, o.hasAnnotations, o.annotations = own.hasPodMeta, own.hasAnnotations, own.annotations
	}
}

func (o *object) readPodMeta(c *cursor) {
	o.hasPodMeta = c.peek() == '{'
	c.object(func(key []byte) {
		if string(key) == "annotations" {
			o.readAnnotations(c)
		}
	})
}

func (o *object) readAnnotations(c *cursor) {
	o.hasAnnotations = c.peek() == '{'
	o.annotations = map[string]string{}
	c.object(func(key []byte) { o.annotations[string(key)] = string(c.string()) })
}

// readPod reads the pod spec, and tells whether there is one.
func (o *object) readPod(c *cursor) bool {
	if c.peek() != '{' {
		return false
	}
	var dnsPolicy, schedulerName bool
	c.object(func(key []byte) {
		switch string(key) {
		case "initContainers":
			o.initContainers.read(c)
		case "containers":
			o.containers.read(c)
		case "volumes":
			o.volumes.read(c)
		case "dnsPolicy":
			dnsPolicy = true
		case "schedulerName":
			schedulerName = true
		}
	})
	// Both are set on every pod spec that an API server has stored
	// (SetDefaults_PodSpec, pkg/apis/core/v1/defaults.go, Kubernetes 1.37),
	// and by hardly anybody by hand.
	o.defaulted = dnsPolicy && schedulerName
	return true
}

func (l *list) read(c *cursor) {
	l.exists = c.peek() == '['
	c.array(func() {
		start := c.at
		name := ""
		c.object(func(key []byte) {
			if string(key) == "name" {
				name = string(c.string())
			}
		})
		if c.err == nil {
			l.items = append(l.items, named{name: name, raw: c.text[start:c.at]})
		}
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
	return found
}

func readIstiod(index int, container named) *istiod {
	found := &istiod{index: index, name: container.name, env: map[string]string{}}
	c := &cursor{text: container.raw}
	c.object(func(key []byte) {
		switch string(key) {
		case "volumeMounts":
			found.readMounts(c)
		case "env":
			found.readEnv(c)
		case "securityContext":
			c.object(func(key []byte) {
				switch string(key) {
				case "runAsUser":
					found.user = id(c.skip())
				case "runAsGroup":
					found.group = id(c.skip())
				}
			})
		}
	})
	return found
}

func id(number []byte) *int64 {
	value, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return nil
	}
	return &value
}

func (i *istiod) readMounts(c *cursor) {
	i.hasMounts = c.peek() == '['
	c.array(func() {
		var m mount
		c.object(func(key []byte) {
			switch string(key) {
			case "name":
				m.volume = string(c.string())
			case "mountPath":
				m.path = path.Clean(string(c.string()))
			case "subPath", "subPathExpr":
				m.subPath += string(c.string())
			}
		})
		i.mounts = append(i.mounts, m)
	})
	for _, m := range i.mounts {
		switch {
		case m.path == CACertsPath:
			i.volume, i.subPath = m.volume, m.subPath
		case strings.HasPrefix(m.path, CACertsPath+"/"):
			i.within = m.path
		}
	}
}

// readEnv keeps the variables that the decision asks about; of a variable that
// is set twice the last one counts, as in the container's process.
func (i *istiod) readEnv(c *cursor) {
	c.array(func() {
		var name, value []byte
		c.object(func(key []byte) {
			switch string(key) {
			case "name":
				name = c.string()
			case "value":
				value = c.string()
			}
		})
		switch string(name) {
		case "ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER", "ROOT_CA_DIR":
			i.env[string(name)] = string(value)
		}
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

// protected tells whether istiod can only start with files of the agent's, in
// either form: its volume is in memory, and an init container fills it first.
func (o *object) protected() bool {
	at := o.volumes.index(o.istiod.volume)
	if at < 0 || !emptyDirOnly(o.volumes.items[at].raw) || !inMemory(o.volumes.items[at].raw) {
		return false
	}
	containers := o.containers.index(AgentContainer) >= 0 && o.initContainers.index(InitContainer) >= 0
	return containers || o.initContainers.index(AgentContainer) >= 0
}

func isAgent(container string) bool {
	return container == AgentContainer || container == InitContainer
}
