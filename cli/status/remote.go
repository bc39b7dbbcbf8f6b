// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// maxRemote is the number of remote clusters in a wide cell.
const maxRemote = 20

// remoteCell returns how many of its remote clusters istiod reads, with their states in a wide table; empty where that is
// unknown.
func remoteCell(remote *certificatesv1.RemoteClusters, wide bool) string {
	if remote == nil || remote.Error != "" {
		return ""
	}
	synced, all := remote.Synced()
	cell := fmt.Sprintf("%d/%d", synced, all)
	if !wide || all == 0 {
		return cell
	}
	var states []string
	for _, cluster := range remote.Clusters[:min(len(remote.Clusters), maxRemote)] {
		states = append(states, cluster.Name+"="+string(cluster.State))
	}
	if extra := all - len(states); extra > 0 {
		states = append(states, fmt.Sprintf("and %d more", extra))
	}
	return cell + " (" + strings.Join(states, ", ") + ")"
}

// renewToken is what ends most problems of a remote cluster.
const renewToken = "replace the token with kubectl istiod-agent join --renew, for the contexts of both clusters"
