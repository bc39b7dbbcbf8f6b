// SPDX-License-Identifier: Apache-2.0

package patches

import "encoding/json"

// Rendered is the injection of one configuration as JSON: the containers and volumes as an istiod gets them whose
// container sets no user or group id, whose volume is called cacerts and whose environment has none of the variables that
// the injection copies. Package policy hands it to the API server.
type Rendered struct {
	// InitContainer is the first of the pod's init containers.
	InitContainer json.RawMessage
	// Container is the last of the pod's containers; nil for the native sidecar form.
	Container json.RawMessage
	// Volume is mounted at CACertsPath.
	Volume json.RawMessage
	// TokenVolume holds the token for Vault; nil for none.
	TokenVolume json.RawMessage
	// Digest identifies the above.
	Digest string
	// Annotate and MultiRootMesh are the configuration's.
	Annotate, MultiRootMesh bool
}

// Rendered returns what the injector injects. The caller must not change it.
func (i *Injector) Rendered() Rendered {
	r := &i.rendered
	return Rendered{
		InitContainer: r.json.init,
		Container:     r.json.sidecar,
		Volume:        r.json.volume,
		TokenVolume:   r.json.token,
		Digest:        r.digest,
		Annotate:      r.annotate,
		MultiRootMesh: r.multiRoot,
	}
}
