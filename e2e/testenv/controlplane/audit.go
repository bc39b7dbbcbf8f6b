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

// AuditEvent is what the API server's audit log says of one request.
type AuditEvent struct {
	Stage      string `json:"stage"`
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
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
	return c.audited(func(event *AuditEvent) bool {
		resource := event.ObjectRef.Resource
		return event.ObjectRef.Namespace == namespace && (resource == "deployments" || resource == "pods") && writes[event.Verb]
	})
}

// Requests reads what the webhook's program, by its user name, has asked for but reading single objects, oldest first:
// writes once they are answered, lists and watches once they have begun.
func (c *ControlPlane) Requests(user string) ([]AuditEvent, error) {
	return c.audited(func(event *AuditEvent) bool {
		return event.User.Username == user && (event.Stage == "ResponseStarted") == (event.Verb == "watch")
	})
}

var writes = map[string]bool{"create": true, "update": true, "patch": true, "delete": true, "deletecollection": true}

// Write says whether the request would change something.
func (e *AuditEvent) Write() bool { return writes[e.Verb] }

// audited reads the events that are wanted, oldest first.
func (c *ControlPlane) audited(wanted func(*AuditEvent) bool) ([]AuditEvent, error) {
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
		if wanted(&event) {
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
