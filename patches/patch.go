// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
)

// Patch encodes the operations. It is written by hand because the rendered values are JSON already, which encoding/json
// validates and compacts again: 16 µs against 76 µs (go test -run '^$' -bench Patch ./patches).
func (r *Result) Patch() ([]byte, error) {
	const ordinary = 2560 // bytes: both containers, the volume, an annotation
	patch := append(make([]byte, 0, ordinary), '[')
	for i, operation := range r.Operations {
		if i > 0 {
			patch = append(patch, ',')
		}
		patch = append(patch, `{"op":"`...)
		patch = append(patch, operation.Operation...)
		patch = append(patch, `","path":`...)
		patch = strconv.AppendQuote(patch, operation.Path) // names of ours and indices: plain ASCII
		if operation.Operation != "remove" {
			patch = append(patch, `,"value":`...)
			switch value := operation.Value.(type) {
			case json.RawMessage:
				patch = append(patch, value...)
			case listOfOne:
				patch = append(append(append(patch, '['), value[0]...), ']')
			default:
				encoded, err := json.Marshal(value)
				if err != nil {
					return nil, err
				}
				patch = append(patch, encoded...)
			}
		}
		patch = append(patch, '}')
	}
	return append(patch, ']'), nil
}

// patch collects operations, and the description of each.
type patch struct{ Result }

func (p *patch) add(op, path string, value any, change string) {
	p.Operations = append(p.Operations, jsonpatch.NewOperation(op, path, value))
	if change != "" {
		p.Changes = append(p.Changes, change)
	}
}

// listOfOne is a new list with one entry.
type listOfOne []json.RawMessage

// insert adds an entry to a list, which it creates if there is none.
func (p *patch) insert(l *list, first bool, raw json.RawMessage, change string) {
	switch {
	case !l.exists:
		p.add("add", l.path, listOfOne{raw}, change)
		l.exists = true
	case first:
		p.add("add", l.path+"/0", raw, change)
	default:
		p.add("add", l.path+"/-", raw, change)
	}
}

// drop removes the agent's containers from the list, the last one first, so that the other indices stay valid.
func (p *patch) drop(l *list) {
	for _, agents := range slices.Backward(l.agents()) {
		p.add("remove", l.entry(agents), nil, "remove container "+l.items[agents].name)
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
	agents := slices.DeleteFunc(keys, func(key string) bool { _, exists := m.annotations[key]; return !exists })
	at := m.path + "/annotations"
	if len(agents) > 0 && len(agents) == len(m.annotations) {
		p.add("remove", at, nil, "remove annotation "+agents[0])
		return
	}
	for _, key := range agents {
		p.add("remove", at+"/"+escape(key), nil, "remove annotation "+key)
	}
}

func (l *list) entry(index int) string { return entry(l.path, index) }

func entry(list string, index int) string { return list + "/" + strconv.Itoa(index) }

// escape escapes a name for a JSON pointer (RFC 6901).
func escape(name string) string { return pointer.Replace(name) }

var pointer = strings.NewReplacer("~", "~0", "/", "~1")
