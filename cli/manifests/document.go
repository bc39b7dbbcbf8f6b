// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	evanphx "github.com/evanphx/json-patch/v5"
	goyaml "go.yaml.in/yaml/v2"
	"gomodules.xyz/jsonpatch/v2"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/patches"
)

// decision is patches.Injector.Inject or patches.Uninject.
type decision func(kind patches.Kind, object []byte) patches.Result

type document struct {
	// source for messages: a file and the document's number in it.
	source string
	// text as read, including its "---" line; written unchanged unless the
	// document changes.
	text []byte
	// value is the JSON object or array in text; nil for YAML.
	value []byte
	// notJSON is the error of text that begins like JSON.
	notJSON error
	// followsJSON is true after a JSON value without a "---" line between.
	followsJSON bool

	// after is the changed document as JSON, nil without a change; edits is the
	// patch.
	after []byte
	edits []jsonpatch.Operation
	// operations holds one patch for each istiod in the document.
	operations [][]jsonpatch.Operation
}

func (d *document) changed() bool { return d.after != nil }
func (d *document) decided() bool { return d.operations != nil }

// object has the fields that identify an istiod.
type object struct {
	typeMeta

	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
}

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func (d *document) apply(decide decision, check bool, notes io.Writer) error {
	if mapping, err := d.isMapping(); err != nil || !mapping {
		return err // empty or not an object
	}
	raw, err := d.asJSON()
	if err != nil {
		return fmt.Errorf("%s: %w", d.source, err)
	}
	edits, err := d.visit(raw, typeMeta{}, 0, func(raw []byte, o object) ([]jsonpatch.Operation, error) {
		return d.decide(decide, raw, o, check, notes)
	})
	if err != nil || len(edits) == 0 {
		return err
	}
	if err := d.uniqueKeys(); err != nil {
		return fmt.Errorf("%s: %w", d.source, err)
	}
	d.edits = edits
	d.after, err = applied(raw, edits)
	return err
}

// maxListDepth limits Lists within Lists: each level is decoded again.
const maxListDepth = 8

// visit calls decide for an object or for each item of a List, and returns the
// operations with paths from the document's root. Items in a DeploymentList or
// PodList have no type; byDefault is the List's.
func (d *document) visit(raw []byte, byDefault typeMeta, depth int, decide func([]byte, object) ([]jsonpatch.Operation, error)) ([]jsonpatch.Operation, error) {
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil, nil //nolint:nilerr // not a Kubernetes object
	}
	o.APIVersion, o.Kind = cmp.Or(o.APIVersion, byDefault.APIVersion), cmp.Or(o.Kind, byDefault.Kind)
	itemKind, isList := strings.CutSuffix(o.Kind, "List")
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if !isList || json.Unmarshal(raw, &list) != nil {
		return decide(raw, o)
	}
	if depth == maxListDepth {
		return nil, fmt.Errorf("%s: expected at most %d Lists within each other", d.source, maxListDepth)
	}
	var itemType typeMeta
	if itemKind != "" {
		itemType = typeMeta{APIVersion: o.APIVersion, Kind: itemKind}
	}
	var all []jsonpatch.Operation
	for i, item := range list.Items {
		operations, err := d.visit(item, itemType, depth+1, decide)
		if err != nil {
			return nil, err
		}
		for _, operation := range operations {
			operation.Path = "/items/" + strconv.Itoa(i) + operation.Path
			all = append(all, operation)
		}
	}
	return all, nil
}

// isMapping reports whether the document can be an object. It refuses a second
// document without a "---" line, which would be lost.
func (d *document) isMapping() (mapping bool, err error) {
	switch {
	case d.value != nil:
		return d.value[0] == '{', nil
	case d.followsJSON:
		return false, fmt.Errorf(`%s: after a JSON document, expected another one or a line "---": not JSON: %w`, d.source, d.notJSON)
	}
	documents := goyaml.NewDecoder(bytes.NewReader(d.text))
	for n := 0; ; n++ {
		var document any
		switch err := documents.Decode(&document); {
		case errors.Is(err, io.EOF):
			return mapping, nil
		case err != nil && d.notJSON != nil:
			return false, fmt.Errorf("%s: not YAML: %w; not JSON: %w", d.source, err, d.notJSON)
		case err != nil:
			return false, fmt.Errorf("%s: not YAML: %w", d.source, err)
		case n > 0:
			return false, fmt.Errorf(`%s: holds several documents; start each with a line "---"`, d.source)
		}
		_, mapping = document.(map[any]any)
	}
}

// asJSON returns the document as JSON, unchanged if it is JSON.
func (d *document) asJSON() ([]byte, error) {
	if d.value != nil {
		return d.value, nil
	}
	raw, err := yaml.YAMLToJSON(d.text)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	return raw, nil
}

// uniqueKeys refuses a document with duplicate keys: parsers differ in which of
// them counts.
func (d *document) uniqueKeys() error {
	if d.value == nil {
		return uniqueKeys(d.text)
	}
	var object map[string]any
	repeated, err := kjson.UnmarshalStrict(d.value, &object)
	return cmp.Or(err, errors.Join(repeated...))
}

func (d *document) decide(decide decision, raw []byte, o object, check bool, notes io.Writer) ([]jsonpatch.Operation, error) {
	if o.Metadata.Labels["app"] != "istiod" {
		return nil, nil
	}
	var kind patches.Kind
	switch {
	case o.Kind == "Deployment" && o.APIVersion == "apps/v1":
		kind = patches.Deployment
	case o.Kind == "Pod" && o.APIVersion == "v1":
		kind = patches.Pod
	default:
		return nil, nil
	}
	result := decide(kind, raw)
	name := strings.ToLower(o.Kind) + "/" + o.Metadata.Name
	if o.Metadata.Namespace != "" {
		name += " in namespace " + o.Metadata.Namespace
	}
	if result.Denied() {
		return nil, fmt.Errorf("%s: %s: %s: %s", d.source, name, result.Reason, result.Message)
	}
	if check && len(result.Operations) > 0 {
		fmt.Fprintf(notes, "%s: %s: would change: %s\n", d.source, name, strings.Join(result.Changes, ", "))
	} else {
		fmt.Fprintf(notes, "%s: %s: %s: %s\n", d.source, name, result.Reason, result.Message)
	}
	for _, warning := range result.Warnings {
		if warning != result.Message {
			fmt.Fprintf(notes, "%s: %s: warning: %s\n", d.source, name, warning)
		}
	}
	d.operations = append(d.operations, result.Operations)
	return result.Operations, nil
}

func applied(raw []byte, operations []jsonpatch.Operation) ([]byte, error) {
	text, err := json.Marshal(operations)
	if err != nil {
		return nil, err
	}
	patch, err := evanphx.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	return patch.Apply(raw)
}
