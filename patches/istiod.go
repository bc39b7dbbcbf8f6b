// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

type istiod struct {
	index     int
	name      string
	volume    string // of the mount at /etc/cacerts; "" when there is none
	hiddenBy  string // why the mounts do not show the agent's files at /etc/cacerts; "" when they do
	hasMounts bool
	mounts    []mount
	// env holds the variables that the decision depends on.
	env    map[string]variable
	envs   int // how many variables the container has
	hasEnv bool
	// envFrom is true if further variables come from a ConfigMap or Secret.
	envFrom    bool
	workingDir string
	// runsDiscovery is true if the command line names pilot-discovery's subcommand.
	runsDiscovery bool
	// token is the text of the mount at TokenPath; nil if there is none.
	token []byte
	// workloadTTL is the text of the variable istio.WorkloadTTLVariable; nil if it is not set.
	workloadTTL []byte
	// user and group are the ids of the container's security context; nil if not set, or root's user.
	user, group *int64
	// root is true if the security context sets root's user, and overridesModes if root may read files of others with it.
	root, overridesModes bool
}

// mount of a volume; volume is a slice of the container's text.
type mount struct {
	volume []byte
	at     relation
}

type variable struct {
	index int
	value string
	// plain is false if the value depends on more than the container's own text: valueFrom, or a $(reference).
	plain bool
}

// readContainers reads the containers and finds istiod's: the one named discovery, else the first that mounts /etc/cacerts.
// The agent's containers never count.
func (o *object) readContainers(c *cursor) {
	candidates := o.readList(c, &o.containers)
	for _, candidate := range candidates {
		switch {
		case isAgent(candidate.name):
		case candidate.name == IstiodContainer:
			o.istiod = candidate
		case o.istiod == nil && candidate.volume != "":
			o.istiod = candidate
		}
	}
	for _, candidate := range candidates {
		if candidate.runsDiscovery && candidate != o.istiod && !isAgent(candidate.name) {
			o.secondIstiod = candidate.name
		}
	}
}

// readInitContainers reads the init containers, none of which may run istiod.
func (o *object) readInitContainers(c *cursor) {
	for _, container := range o.readList(c, &o.initContainers) {
		if container.runsDiscovery && !isAgent(container.name) {
			o.secondIstiod = container.name
		}
	}
}

// maxAgentsVolumes bounds the work on a Deployment with thousands of containers that have the agent's names.
const maxAgentsVolumes = 4

// readList reads a list of containers and records the volumes that they mount.
func (o *object) readList(c *cursor, l *list) []*istiod {
	var containers []*istiod
	grow := func(count int) {
		for len(containers) < count {
			containers = append(containers, &istiod{index: len(containers), overridesModes: true})
		}
	}
	l.read(c, func(index int, key []byte) {
		grow(index + 1)
		containers[index].read(c, key)
	})
	grow(len(l.items))
	containers = containers[:len(l.items)] // one more where the text broke off
	for i, item := range l.items {
		containers[i].name = item.name
		if isAgent(item.name) {
			if volume := containers[i].volume; volume != "" && len(o.agentVolumes) < maxAgentsVolumes && !slices.Contains(o.agentVolumes, volume) {
				o.agentVolumes = append(o.agentVolumes, volume)
			}
			continue
		}
		for _, m := range containers[i].mounts {
			if o.mounted == nil {
				o.mounted = map[string]bool{}
			}
			o.mounted[string(m.volume)] = true
		}
	}
	return containers
}

// read reads a member of the container if the decision depends on it.
func (i *istiod) read(c *cursor, key []byte) {
	switch string(key) {
	case "volumeMounts":
		i.readMounts(c)
	case "volumeDevices":
		i.readDevices(c)
	case "env":
		i.readEnv(c)
	case "envFrom":
		c.array(func() { i.envFrom = true })
	case "workingDir":
		i.workingDir = string(c.string())
	case "args", "command":
		i.runsDiscovery = runsDiscoveryCommand(c) || i.runsDiscovery
	case "securityContext":
		c.object(func(key []byte) {
			switch string(key) {
			case "runAsUser":
				i.user = id(c.skip())
				if i.root = i.user != nil && *i.user == 0; i.root { // runAsNonRoot would refuse it in the agent's containers
					i.user = nil
				}
			case "runAsGroup":
				i.group = id(c.skip())
			case "capabilities":
				i.overridesModes = overridesModes(decoded[corev1.Capabilities](c.skip()))
			}
		})
	}
}

// overridesModes reports whether root has CAP_DAC_OVERRIDE with these capabilities, as it has by default: runtimes drop ALL
// first, then add, then drop the others (WithCapabilities of containerd, internal/cri/opts).
func overridesModes(capabilities *corev1.Capabilities) bool {
	const override = "DAC_OVERRIDE"
	return capabilities == nil || !slices.Contains(capabilities.Drop, override) &&
		(!slices.Contains(capabilities.Drop, "ALL") || slices.Contains(capabilities.Add, override))
}

func id(number []byte) *int64 {
	value, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return nil
	}
	return &value
}

// runsDiscoveryCommand reports whether a command line names pilot-discovery's subcommand "discovery".
func runsDiscoveryCommand(c *cursor) (found bool) {
	c.array(func() { found = string(c.string()) == IstiodContainer || found })
	return found
}

func (i *istiod) readMounts(c *cursor) {
	if i.hasMounts = c.peek() == '['; i.hasMounts {
		i.mounts = make([]mount, 0, 8) // Istio 1.31's chart has six
	}
	found := false
	c.array(func() {
		start := c.at
		var m mount
		var path string
		var subPath []byte
		m.at = elsewhere
		c.object(func(key []byte) {
			switch string(key) {
			case "name":
				m.volume = c.string()
			case "mountPath":
				path = string(c.string())
				m.at = relate(path)
			case "subPath", "subPathExpr":
				subPath = append(subPath, c.string()...)
			}
		})
		i.mounts = append(i.mounts, m)
		if isTokenPath(path) && c.err == nil {
			i.token = c.text[start:c.at]
		}
		switch {
		case m.at == atCACerts && found:
			i.hiddenBy = "mounts " + CACertsPath + " twice; remove one of the mounts"
		case m.at == atCACerts:
			found, i.volume = true, string(m.volume)
			if len(subPath) > 0 {
				i.hiddenBy = fmt.Sprintf("mounts %s with subPath %s; mount the whole volume", CACertsPath, subPath)
			}
		case m.at != elsewhere:
			i.hiddenBy = m.at.problem(path)
		}
	})
}

func (i *istiod) readDevices(c *cursor) {
	c.array(func() {
		c.object(func(key []byte) {
			if string(key) != "devicePath" {
				return
			}
			if path := string(c.string()); relate(path) != elsewhere {
				i.hiddenBy = fmt.Sprintf("has a device at %s, which hides the agent's files; remove that device", path)
			}
		})
	})
}

// readEnv keeps the variables that the decision depends on. The last of a name counts, as in the process.
func (i *istiod) readEnv(c *cursor) {
	i.hasEnv = c.peek() == '['
	c.array(func() {
		start := c.at
		var name, value []byte
		plain := true
		c.object(func(key []byte) {
			switch string(key) {
			case "name":
				name = c.string()
			case "value":
				value = c.string()
			case "valueFrom":
				plain = c.peek() != '{'
			}
		})
		switch string(name) {
		case istio.WorkloadTTLVariable:
			if i.workloadTTL = nil; c.err == nil && !bytes.Contains(value, []byte("$(")) {
				i.workloadTTL = c.text[start:c.at]
			}
		case istio.MultiRootVariable, istio.RootCADirVariable, "ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER":
			if i.env == nil {
				i.env = map[string]variable{}
			}
			i.env[string(name)] = variable{index: i.envs, value: string(value), plain: plain && !bytes.Contains(value, []byte("$("))}
		}
		i.envs++
	})
}

// has reports whether the container's env sets the variable.
func (i *istiod) has(name string) bool {
	_, set := i.env[name]
	return set
}

// plainValue returns a variable's value, "" if it is not plain.
func (i *istiod) plainValue(name string) string {
	if v := i.env[name]; v.plain {
		return v.value
	}
	return ""
}

// builtInCAOff returns the setting that turns istiod's built-in CA off, "" if it is on (maybeCreateCA and isK8SSigning,
// pilot/pkg/bootstrap/server.go, Istio 1.31). A value that is not plain turns nothing off.
func (i *istiod) builtInCAOff() string {
	enabled := i.plainValue("ENABLE_CA_SERVER")
	if on, err := strconv.ParseBool(enabled); err == nil && !on {
		return "ENABLE_CA_SERVER=" + enabled
	}
	external, provider := i.plainValue("EXTERNAL_CA"), i.plainValue("PILOT_CERT_PROVIDER")
	if external != "" && strings.HasPrefix(provider, "k8s.io/") {
		return fmt.Sprintf("EXTERNAL_CA=%s with PILOT_CERT_PROVIDER=%s", external, provider)
	}
	return ""
}
