// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// AuditEvent is an entry of the API server's audit log.
type AuditEvent struct {
	Stage      string `json:"stage"`
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	// Annotations of admission webhooks have keys of the form <webhook name>/<key>.
	Annotations map[string]string `json:"annotations"`
}

// AuditEvents returns the writes to a namespace's Deployments and Pods, oldest first.
func (c *ControlPlane) AuditEvents(namespace string) ([]AuditEvent, error) {
	return c.audited(func(event *AuditEvent) bool {
		resource := event.ObjectRef.Resource
		return event.ObjectRef.Namespace == namespace && (resource == "deployments" || resource == "pods") && writes[event.Verb]
	})
}

// Requests returns the requests of a user, except reads of single objects, oldest first: writes and lists once they are
// answered, watches once they have started.
func (c *ControlPlane) Requests(user string) ([]AuditEvent, error) {
	return c.audited(func(event *AuditEvent) bool {
		return event.User.Username == user && event.Verb != "get" && (event.Stage == "ResponseStarted") == (event.Verb == "watch")
	})
}

// AllRequests are Requests with the reads of single objects, and with the refused requests of each verb.
func (c *ControlPlane) AllRequests(user string) ([]AuditEvent, error) {
	return c.audited(func(event *AuditEvent) bool {
		started := event.Verb == "watch" && event.ResponseStatus.Code < http.StatusBadRequest
		return event.User.Username == user && (event.Stage == "ResponseStarted") == started
	})
}

var writes = map[string]bool{"create": true, "update": true, "patch": true, "delete": true, "deletecollection": true}

// Write reports whether the request changes an object.
func (e *AuditEvent) Write() bool { return writes[e.Verb] }

// audited returns the events that match, oldest first.
func (c *ControlPlane) audited(match func(*AuditEvent) bool) ([]AuditEvent, error) {
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
		if match(&event) {
			events = append(events, event)
		}
	}
	return events, lines.Err()
}

func (c *ControlPlane) auditLog() string { return filepath.Join(c.dir, "audit.log") }
