// SPDX-License-Identifier: Apache-2.0

package patches

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
	serviceAccount                      string // empty means default
	// defaulted tells that the pod spec has been through an API server.
	defaulted bool

	istiod *istiod
	// second is the name of a container that runs istiod too; "" when there is none.
	second string
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
			o.readInitContainers(c)
		case "containers":
			o.readContainers(c)
		case "volumes":
			o.volumes.read(c, nil)
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
		l.items = make([]named, 0, 8) // istiod has one container and six or seven volumes
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
	_, digest := o.annotations[InjectedAnnotation]
	_, note := o.annotations[OriginalAnnotation]
	return digest || note
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
