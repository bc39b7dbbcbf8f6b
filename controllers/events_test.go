// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/events"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ level, key string }{
		"Warning": {"ERROR", "err"},
		"Normal":  {"INFO", "message"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			recorder := events.NewFakeRecorder(1)
			object := Untyped(DeploymentKind)
			object.SetNamespace("istio-system")
			object.SetName("istiod")
			long := strings.Repeat("ü", 2000)
			Record(logf.IntoContext(t.Context(), logr.FromSlogHandler(slog.NewJSONHandler(&log, nil))), recorder,
				Event{Object: object, Type: name, Reason: "Because", Action: "Test", Message: long})

			var line map[string]any
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
			if line["level"] != test.level || line[test.key] != long || line["reason"] != "Because" {
				t.Errorf("logged %.200s", log.String())
			}
			if event := <-recorder.Events; !strings.HasPrefix(event, name+" Because üü") || len(event) > 1100 {
				t.Errorf("the Event is %.200q", event)
			}
		})
	}
}
