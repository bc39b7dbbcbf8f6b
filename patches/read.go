// SPDX-License-Identifier: Apache-2.0

package patches

import "slices"

// object holds what the decision needs of a Deployment or Pod; the rest is not decoded.
type object struct {
	kind     Kind
	deleting bool
	// inject is the object's own istiod-agent.io/inject, "" if not set.
	inject string

	// pod is the JSON pointer to the pod spec.
	pod string
	// own is the object's metadata, and template the pod template's; a Pod has one for both.
	own, template *metadata

	initContainers, containers, volumes list
	serviceAccount                      string // empty means default
	// mounted holds the volumes that containers other than the agent's mount.
	mounted map[string]bool
	// agentVolumes are the volumes that the agent's containers mount at CACertsPath.
	agentVolumes []string
	// resources is the text of the pod's own (PodLevelResources); nil if not set.
	resources []byte
	// automountDisabled is true if the pod spec sets automountServiceAccountToken to false.
	automountDisabled bool
	// root is true if the pod's security context sets root's user.
	root bool
	// defaulted is true if an API server has stored the pod spec.
	defaulted bool

	istiod *istiod
	// secondIstiod is the name of another container that runs istiod, "" if there is none.
	secondIstiod string
}

// metadata of the object or of its pod template.
type metadata struct {
	path           string // JSON pointer
	exists         bool
	hasAnnotations bool
	annotations    map[string]string
}

// list of named elements.
type list struct {
	path   string
	exists bool
	items  []element
}

type element struct {
	name string
	raw  []byte
}

// read collects the object in one walk. It returns nil if there is no pod spec.
func read(kind Kind, raw []byte) *object {
	o := &object{kind: kind, pod: "/spec", own: &metadata{path: "/metadata"}}
	o.template = o.own
	if kind == Deployment {
		o.pod, o.template = "/spec/template/spec", &metadata{path: "/spec/template/metadata"}
	}
	o.initContainers.path, o.containers.path, o.volumes.path = o.pod+"/initContainers", o.pod+"/containers", o.pod+"/volumes"

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
						o.template.read(c, nil)
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
	return o
}

// readMeta reads the object's own metadata.
func (o *object) readMeta(c *cursor) {
	var label string
	o.own.read(c, func(key []byte) {
		switch string(key) {
		case "deletionTimestamp":
			o.deleting = c.peek() != 'n'
		case "labels":
			c.object(func(key []byte) {
				if string(key) == InjectKey {
					label = string(c.string())
				}
			})
		}
	})
	o.inject = o.own.annotations[InjectKey]
	if o.inject == "" || label == "false" {
		o.inject = label
	}
}

// read reads the annotations; other, if not nil, may read other members.
func (m *metadata) read(c *cursor, other func(key []byte)) {
	m.exists = c.peek() == '{'
	c.object(func(key []byte) {
		switch {
		case string(key) == "annotations":
			m.hasAnnotations = c.peek() == '{'
			m.annotations = map[string]string{}
			c.object(func(key []byte) { m.annotations[string(key)] = string(c.string()) })
		case other != nil:
			other(key)
		}
	})
}

// readPod reads the pod spec and reports whether there is one.
func (o *object) readPod(c *cursor) bool {
	if c.peek() != '{' {
		return false
	}
	var dnsPolicy, schedulerName bool
	c.object(func(key []byte) {
		switch string(key) {
		case "initContainers":
			o.readInitContainers(c)
		case "containers":
			o.readContainers(c)
		case "volumes":
			o.volumes.read(c, nil)
		case "resources":
			o.resources = c.skip()
		case "automountServiceAccountToken":
			o.automountDisabled = string(c.skip()) == "false"
		case "securityContext":
			c.object(func(key []byte) {
				if string(key) == "runAsUser" {
					user := id(c.skip())
					o.root = user != nil && *user == 0
				}
			})
		case "serviceAccountName":
			o.serviceAccount = string(c.string())
		case "dnsPolicy":
			dnsPolicy = true
		case "schedulerName":
			schedulerName = true
		}
	})
	// An API server sets both on every pod spec that it stores (SetDefaults_PodSpec, pkg/apis/core/v1/defaults.go,
	// Kubernetes 1.37); people rarely do.
	o.defaulted = dnsPolicy && schedulerName
	return true
}

// read reads the list; member, if not nil, may read other members of its entries.
func (l *list) read(c *cursor, member func(index int, key []byte)) {
	if l.exists = c.peek() == '['; l.exists {
		l.items = make([]element, 0, 8) // istiod has one container and six or seven volumes
	}
	c.array(func() {
		start := c.at
		name := ""
		c.object(func(key []byte) {
			switch {
			case string(key) == "name":
				name = string(c.string())
			case member != nil:
				member(len(l.items), key)
			}
		})
		if c.err == nil {
			l.items = append(l.items, element{name: name, raw: c.text[start:c.at]})
		}
	})
}

// index of the element with this name, -1 if there is none.
func (l *list) index(name string) int {
	return slices.IndexFunc(l.items, func(item element) bool { return item.name == name })
}

func (o *object) hasAgent() bool {
	return len(o.containers.agents())+len(o.initContainers.agents()) > 0
}

// annotated reports whether an injection has annotated the object.
func (o *object) annotated() bool {
	_, digest := o.template.annotations[InjectedAnnotation]
	return digest || o.own.annotations[OriginalAnnotation] != "" || o.template.annotations[OriginalAnnotation] != ""
}

// protected reports whether istiod can start only with the agent's files: its volume is in memory, and an init container
// fills it first.
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

// agents returns the indices of the agent's containers, in order.
func (l *list) agents() []int {
	var indices []int
	for i, item := range l.items {
		if isAgent(item.name) {
			indices = append(indices, i)
		}
	}
	return indices
}
