// SPDX-License-Identifier: Apache-2.0

package patches

// object is what the decision needs of a Deployment or Pod: where things are
// and what they are called. Everything else stays unread.
type object struct {
	kind     Kind
	deleting bool
	// inject is the object's own istiod-agent.io/inject, "" when unset.
	inject string

	// pod is the JSON pointer to the pod's spec.
	pod string
	// own is the object's metadata, and template the pod's; of a Pod both are the same.
	own, template *metadata

	initContainers, containers, volumes list
	serviceAccount                      string // empty means default
	// mounted are the volumes that containers mount which are not the agent's.
	mounted map[string]bool
	// agentVolumes are what the agent's containers mount at CACertsPath.
	agentVolumes []string
	// resources are the pod's own (PodLevelResources); nil for none.
	resources []byte
	// automountDisabled is set where the pod spec asks for no token of its service account.
	automountDisabled bool
	// defaulted tells that the pod spec has been through an API server.
	defaulted bool

	istiod *istiod
	// secondIstiod is the name of a container that runs istiod too; "" when there is none.
	secondIstiod string
}

// metadata of the object or of its pod template.
type metadata struct {
	path           string // JSON pointer
	exists         bool
	hasAnnotations bool
	annotations    map[string]string
}

// list is a list of named things at a JSON pointer.
type list struct {
	path   string
	exists bool
	items  []element
}

type element struct {
	name string
	raw  []byte
}

// read finds the places in one walk. It returns nil when the object has no pod spec.
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

// readMeta reads the object's own metadata, which a Pod's is too.
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

// read the annotations; other may walk what else is there, and is nil where nothing of that is asked for.
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

// readPod reads the pod spec, and tells whether there is one.
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
		case "serviceAccountName":
			o.serviceAccount = string(c.string())
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

// read the list; member may walk what else its entries hold, and is nil where
// nothing of that is asked for.
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

// index of the thing with this name, -1 when there is none.
func (l *list) index(name string) int {
	for i, item := range l.items {
		if item.name == name {
			return i
		}
	}
	return -1
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

// annotated tells whether an injection has left its mark.
func (o *object) annotated() bool {
	_, digest := o.template.annotations[InjectedAnnotation]
	return digest || o.own.annotations[OriginalAnnotation] != "" || o.template.annotations[OriginalAnnotation] != ""
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

// agents are the indices of the agent's containers, in order.
func (l *list) agents() []int {
	var indices []int
	for i, item := range l.items {
		if isAgent(item.name) {
			indices = append(indices, i)
		}
	}
	return indices
}
