// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

const (
	firstPause = time.Second
	maxPause   = 5 * time.Minute
	// maxContested is the number of VirtualMeshes whose last status is remembered.
	maxContested = 1024
)

// contested spaces out the corrections of a status that another program keeps overwriting: two programs that correct each
// other at once never stop.
type contested struct {
	backoff *flowcontrol.Backoff
	last    *lru.Cache // of written, by types.NamespacedName
}

type written struct {
	status [sha256.Size]byte
	at     time.Time
}

func newContested() *contested {
	backoff := flowcontrol.NewBackOff(firstPause, maxPause)
	return &contested{backoff: backoff, last: lru.NewWithEvictionFunc(maxContested, func(key lru.Key, _ any) {
		backoff.DeleteEntry(id(key))
	})}
}

func id(key any) string {
	name, _ := key.(types.NamespacedName)
	return name.String()
}

// pause returns how long to wait before a status is written: not at all where it differs from the last one.
func (c *contested) pause(key types.NamespacedName, status networkingv1.VirtualMeshStatus, now time.Time) time.Duration {
	last := c.lastWritten(key)
	if last.status != digest(status) {
		return 0
	}
	return max(0, c.backoff.Get(id(key))-now.Sub(last.at))
}

func (c *contested) lastWritten(key types.NamespacedName) written {
	value, _ := c.last.Get(key)
	last, _ := value.(written)
	return last
}

// wrote records a status that was written.
func (c *contested) wrote(key types.NamespacedName, status networkingv1.VirtualMeshStatus, now time.Time) {
	next := written{digest(status), now}
	if c.lastWritten(key).status != next.status {
		c.backoff.Reset(id(key))
	}
	c.backoff.Next(id(key), now)
	c.last.Add(key, next)
}

// forget drops a VirtualMesh that was deleted.
func (c *contested) forget(key types.NamespacedName) { c.last.Remove(key) }

// digest identifies a status, without the times of its conditions: they are new after another program removed the conditions.
func digest(status networkingv1.VirtualMeshStatus) [sha256.Size]byte {
	status = *status.DeepCopy()
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime.Reset()
	}
	raw, _ := json.Marshal(status) // text and numbers only: it cannot fail
	return sha256.Sum256(raw)
}
