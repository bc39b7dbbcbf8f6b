// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"fmt"
	"path"
	"strconv"
	"strings"
)

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
	envs      int // how many variables the container has
	hasEnv    bool
	// multiRoot is the index of the variable MultiRootVariable, -1 when there is none.
	multiRoot int
	// user and group ids that the container's security context sets; nil when unset.
	user, group *int64
}

// mount of a volume; the parts are cut out of the container's text.
type mount struct {
	volume, subPath []byte
	path            string // cleaned where it may be at or below /etc/cacerts
}

// readContainers reads the containers, and finds istiod's own: among those that
// mount /etc/cacerts the one called discovery, else the first; else discovery.
// The agent's own never counts.
func (o *object) readContainers(c *cursor) {
	var candidates []*istiod
	o.containers.read(c, func(index int, key []byte) {
		for len(candidates) <= index {
			candidates = append(candidates, newIstiod(len(candidates)))
		}
		candidates[index].read(c, key)
	})
	var mounting, discovery *istiod
	for i, container := range o.containers.items {
		if isAgent(container.name) {
			continue
		}
		candidate := newIstiod(i)
		if i < len(candidates) {
			candidate = candidates[i]
		}
		candidate.name = container.name
		if container.name == IstiodContainer {
			discovery = candidate
		}
		if candidate.volume != "" && (mounting == nil || container.name == IstiodContainer) {
			mounting = candidate
		}
	}
	if o.istiod = mounting; o.istiod == nil {
		o.istiod = discovery
	}
}

func newIstiod(index int) *istiod { return &istiod{index: index, multiRoot: -1} }

// read a member of the container that the decision asks about.
func (i *istiod) read(c *cursor, key []byte) {
	switch string(key) {
	case "volumeMounts":
		i.readMounts(c)
	case "env":
		i.readEnv(c)
	case "securityContext":
		c.object(func(key []byte) {
			switch string(key) {
			case "runAsUser":
				// Root reads every file, and runAsNonRoot would refuse it here.
				if i.user = id(c.skip()); i.user != nil && *i.user == 0 {
					i.user = nil
				}
			case "runAsGroup":
				i.group = id(c.skip())
			}
		})
	}
}

func id(number []byte) *int64 {
	value, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return nil
	}
	return &value
}

var cacerts = []byte(path.Base(CACertsPath))

func (i *istiod) readMounts(c *cursor) {
	if i.hasMounts = c.peek() == '['; i.hasMounts {
		i.mounts = make([]mount, 0, 8) // Istio 1.31's chart has six
	}
	c.array(func() {
		var m mount
		c.object(func(key []byte) {
			switch string(key) {
			case "name":
				m.volume = c.string()
			case "mountPath":
				if at := c.string(); bytes.Contains(at, cacerts) {
					m.path = path.Clean(string(at))
				}
			case "subPath", "subPathExpr":
				m.subPath = append(m.subPath, c.string()...)
			}
		})
		i.mounts = append(i.mounts, m)
	})
	for _, m := range i.mounts {
		switch {
		case m.path == CACertsPath:
			i.volume, i.subPath = string(m.volume), string(m.subPath)
		case strings.HasPrefix(m.path, CACertsPath+"/"):
			i.within = m.path
		}
	}
}

// readEnv keeps the variables that the decision asks about; of a variable that
// is set twice the last one counts, as in the container's process.
func (i *istiod) readEnv(c *cursor) {
	i.hasEnv = c.peek() == '['
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
		case MultiRootVariable:
			i.multiRoot = i.envs
			fallthrough
		case "ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER", "ROOT_CA_DIR":
			if i.env == nil {
				i.env = map[string]string{}
			}
			i.env[string(name)] = string(value)
		}
		i.envs++
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
