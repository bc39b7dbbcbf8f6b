// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	evanphx "github.com/evanphx/json-patch/v5"
	goyaml "go.yaml.in/yaml/v2"
	"gomodules.xyz/jsonpatch/v2"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/patches"
)

// decision is patches.Injector.Inject or patches.Uninject.
type decision func(kind patches.Kind, object []byte) patches.Result

// document is one document of a stream.
type document struct {
	// where it came from, for messages: a file and the document's number in it.
	where string
	// text as it was read, its "---" line included; written as it is unless
	// the document changes.
	text []byte

	// after is the changed document as JSON; nil when nothing changes. edits is
	// the patch that makes it.
	after []byte
	edits []jsonpatch.Operation
	// operations holds one patch for each istiod in the document.
	operations [][]jsonpatch.Operation
}

func (d *document) changed() bool { return d.after != nil }
func (d *document) decided() bool { return d.operations != nil }

// object is what tells an istiod from anything else.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// apply decides on each istiod of the document and reports on it.
func (d *document) apply(decide decision, checking bool, report io.Writer) error {
	if mapping, err := d.isMapping(); err != nil || !mapping {
		return err // empty, or no object: none of ours
	}
	raw, err := yaml.YAMLToJSON(d.text)
	if err != nil {
		return fmt.Errorf("%s: not YAML: %w", d.where, err)
	}
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil //nolint:nilerr // no Kubernetes object, so none of ours
	}

	// A List, as kubectl prints for several objects, or the object itself.
	parts, at := []json.RawMessage{raw}, func(int) string { return "" }
	if strings.HasSuffix(o.Kind, "List") {
		parts, at = o.Items, func(i int) string { return "/items/" + strconv.Itoa(i) }
	}
	var all []jsonpatch.Operation
	for i, part := range parts {
		operations, err := d.decide(decide, part, checking, report)
		if err != nil {
			return err
		}
		for _, operation := range operations {
			operation.Path = at(i) + operation.Path
			all = append(all, operation)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if _, err := yaml.YAMLToJSONStrict(d.text); err != nil {
		return fmt.Errorf("%s: %w", d.where, err)
	}
	d.edits = all
	d.after, err = applied(raw, all)
	return err
}

// isMapping tells whether the text can be an object. It refuses what would be
// left unread, and lost: a second document that no "---" line starts.
func (d *document) isMapping() (mapping bool, err error) {
	documents := goyaml.NewDecoder(bytes.NewReader(d.text))
	for n := 0; ; n++ {
		var document any
		switch err := documents.Decode(&document); {
		case errors.Is(err, io.EOF):
			return mapping, nil
		case err != nil:
			return false, fmt.Errorf("%s: not YAML: %w", d.where, err)
		case n > 0:
			return false, fmt.Errorf(`%s: holds several documents; start each with a line "---"`, d.where)
		}
		_, mapping = document.(map[any]any)
	}
}

// decide on one object; what is not an istiod is left alone without a word.
func (d *document) decide(decide decision, raw []byte, checking bool, report io.Writer) ([]jsonpatch.Operation, error) {
	var o object
	if json.Unmarshal(raw, &o) != nil || o.Metadata.Labels["app"] != "istiod" {
		return nil, nil //nolint:nilerr // no Kubernetes object, so none of ours
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
		return nil, fmt.Errorf("%s: %s: %s: %s", d.where, name, result.Reason, result.Message)
	}
	if checking && len(result.Operations) > 0 {
		fmt.Fprintf(report, "%s: %s: would change: %s\n", d.where, name, strings.Join(result.Changes, ", "))
	} else {
		fmt.Fprintf(report, "%s: %s: %s: %s\n", d.where, name, result.Reason, result.Message)
	}
	for _, warning := range result.Warnings {
		if warning != result.Message {
			fmt.Fprintf(report, "%s: %s: warning: %s\n", d.where, name, warning)
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
