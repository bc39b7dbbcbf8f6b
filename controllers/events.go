// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Event is what happened to an object.
type Event struct {
	// Object is the one that the Event is about; Related is optional.
	Object  client.Object
	Related runtime.Object
	// Type is Normal or Warning, as of corev1.
	Type, Reason, Action, Message string
}

// Record writes an Event and logs it. A warning is logged at error level: it needs a person.
func Record(ctx context.Context, recorder events.EventRecorder, event Event) {
	log := logf.FromContext(ctx).WithValues("object", client.ObjectKeyFromObject(event.Object), "reason", event.Reason)
	if event.Type == corev1.EventTypeWarning {
		log.Error(errors.New(event.Message), "Event occurred")
	} else {
		log.Info("Event occurred", "message", event.Message)
	}
	recorder.Eventf(event.Object, event.Related, event.Type, event.Reason, event.Action, "%s", bounded.Message(event.Message))
}
