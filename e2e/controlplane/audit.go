// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// AuditEvent is what the API server's audit log says of one write to a
// Deployment or Pod.
type AuditEvent struct {
	Verb      string `json:"verb"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	// Annotations holds those of admission webhooks as <webhook name>/<key>.
	Annotations map[string]string `json:"annotations"`
}

// AuditEvents reads the writes to one namespace's Deployments and Pods, oldest first.
func (c *ControlPlane) AuditEvents(namespace string) ([]AuditEvent, error) {
	file, err := os.Open(c.auditLog())
	if err != nil {
		return nil, err
	}
	defer file.Close()

	var events []AuditEvent
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event AuditEvent
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("audit log line %q: %w", lines.Text(), err)
		}
		if event.ObjectRef.Namespace == namespace {
			events = append(events, event)
		}
	}
	return events, lines.Err()
}

func (c *ControlPlane) auditLog() string { return filepath.Join(c.dir, "audit.log") }

// lastLines is the end of a log, where the reason for a failed start stands.
func lastLines(log string, n int) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
