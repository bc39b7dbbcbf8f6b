// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
)

// patch collects operations, and the description of each.
type patch struct{ Result }

func (p *patch) add(op, path string, value any, change string) {
	p.Operations = append(p.Operations, jsonpatch.NewOperation(op, path, value))
	if change != "" {
		p.Changes = append(p.Changes, change)
	}
}

// insert adds an entry to a list, which it creates if there is none.
func (p *patch) insert(l *list, first bool, raw json.RawMessage, change string) {
	switch {
	case !l.exists:
		p.add("add", l.path, []json.RawMessage{raw}, change)
		l.exists = true
	case first:
		p.add("add", l.path+"/0", raw, change)
	default:
		p.add("add", l.path+"/-", raw, change)
	}
}

// drop removes the agent's containers from the list, the last one first, so that the other indices stay valid.
func (p *patch) drop(l *list) {
	for _, agent := range slices.Backward(l.agents()) {
		p.add("remove", l.entry(agent), nil, "remove container "+l.items[agent].name)
	}
}

// setAnnotation sets an annotation, or removes it if the value is empty.
func (p *patch) setAnnotation(m *metadata, key, value string) {
	have, exists := m.annotations[key]
	switch at := m.path + "/annotations/" + escape(key); {
	case have == value && exists == (value != ""):
	case value == "":
		p.add("remove", at, nil, "remove annotation "+key)
	case m.hasAnnotations:
		p.add("add", at, value, "set annotation "+key)
	case m.exists:
		p.add("add", m.path+"/annotations", map[string]string{key: value}, "set annotation "+key)
	default:
		p.add("add", m.path, map[string]any{"annotations": map[string]string{key: value}}, "set annotation "+key)
	}
	if value != "" {
		m.exists, m.hasAnnotations = true, true
	}
}

func (p *patch) removeFrom(m *metadata, keys ...string) {
	keys = slices.DeleteFunc(keys, func(key string) bool { _, exists := m.annotations[key]; return !exists })
	at := m.path + "/annotations"
	if len(keys) > 0 && len(keys) == len(m.annotations) {
		p.add("remove", at, nil, "remove annotation "+keys[0])
		return
	}
	for _, key := range keys {
		p.add("remove", at+"/"+escape(key), nil, "remove annotation "+key)
	}
}

func (l *list) entry(index int) string { return entry(l.path, index) }

func entry(list string, index int) string { return list + "/" + strconv.Itoa(index) }

// escape escapes a name for a JSON pointer (RFC 6901).
func escape(name string) string { return pointer.Replace(name) }

var pointer = strings.NewReplacer("~", "~0", "/", "~1")
