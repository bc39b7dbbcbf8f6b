// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

const (
	firstPause = time.Second
	maxPause   = 5 * time.Minute
)

// contested remembers the status that was last written to each VirtualMesh. Where somebody else writes another one in
// its place, it is written again ever more seldom: two programs that put each other right at once would never end.
type contested struct {
	mu   sync.Mutex
	last map[types.NamespacedName]*writing
}

type writing struct {
	status string
	at     time.Time
	times  int // that the same was written
}

// pause is how long a status is to be left as it is: not at all when it is another than the last one.
func (c *contested) pause(of types.NamespacedName, status networkingv1.VirtualMeshStatus, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.last[of]
	if last == nil || last.status != lasting(status) {
		return 0
	}
	pause := maxPause
	if n := last.times - 1; n < 9 { // 2^9 s are more than five minutes
		pause = min(firstPause<<n, maxPause)
	}
	return max(0, pause-now.Sub(last.at))
}

// wrote remembers what was written.
func (c *contested) wrote(to types.NamespacedName, status networkingv1.VirtualMeshStatus, now time.Time) {
	next := &writing{status: lasting(status), at: now, times: 1}
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.last[to]; last != nil && last.status == next.status {
		next.times += last.times
	}
	if c.last == nil {
		c.last = map[types.NamespacedName]*writing{}
	}
	c.last[to] = next
}

// forget one that is gone.
func (c *contested) forget(of types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, of)
}

// lasting is a status without the times of its conditions, which are new when another has taken the conditions away.
func lasting(status networkingv1.VirtualMeshStatus) string {
	status = *status.DeepCopy()
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime.Reset()
	}
	raw, err := json.Marshal(status)
	if err != nil {
		return "" // it was made of text and numbers here
	}
	return string(raw)
}
