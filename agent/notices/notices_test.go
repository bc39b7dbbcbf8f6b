// SPDX-License-Identifier: Apache-2.0

package notices

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// recorded keeps the events.
type recorded []string

func (r *recorded) Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string) {
	*r = append(*r, fmt.Sprintf("%s %s %v %s", certificate.Name, reason, warning, message))
}

// newNotices logs in the format of the agent's programs, without times.
func newNotices() (n *Notices, events *recorded, log *strings.Builder) {
	events, log = &recorded{}, &strings.Builder{}
	handler := slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}})
	return New(logr.FromSlogHandler(handler), events), events, log
}

func named(name string) *certificatesv1.IssuedCertificate {
	return &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// What each level gives in log, Event and status.
func TestLevels(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tell                 func(*Notices)
		line, event, problem string
	}{
		"error": {
			func(n *Notices) { n.Set(Attempt, "VaultSealed", "it is sealed", "failures", 1) },
			`level=ERROR msg="Failed to obtain a CA certificate" err="it is sealed" reason=VaultSealed failures=1`, "mine VaultSealed true it is sealed", "it is sealed",
		},
		"warning": {
			func(n *Notices) { n.Warn(CAWarning, "its root is old") },
			`level=INFO msg="its root is old" reason=CAWarning`, "mine CAWarning true its root is old", "",
		},
		"info": {
			func(n *Notices) { n.Info(Published, "published") }, `level=INFO msg=published reason=Published`, "mine Published false published", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, events, log := newNotices()
			n.SetAbout(named("mine"))
			for range 2 { // the second is no news
				test.tell(n)
			}
			if log.String() != test.line+"\n" {
				t.Errorf("logged %q, want %q", log, test.line)
			}
			if !slices.Equal(*events, recorded{test.event}) {
				t.Errorf("recorded %q, want %q", *events, test.event)
			}
			if _, message := n.Problems(); message != test.problem {
				t.Errorf("problem %q, want %q", message, test.problem)
			}
		})
	}
}

// A problem is told again after it was solved, and not while it lasts.
func TestSet(t *testing.T) {
	t.Parallel()
	n, events, _ := newNotices()
	n.SetAbout(named("mine"))
	for i, test := range []struct {
		tell func() bool
		told bool
	}{
		{func() bool { return n.Set(Attempt, "A", "one") }, true},
		{func() bool { return n.Set(Attempt, "A", "one") }, false},
		{func() bool { return n.Set(Attempt, "A", "two") }, true},
		{func() bool { n.Clear(Specification, Attempt); return n.Set(Attempt, "A", "two") }, true},
		{func() bool { n.Expect(Specification, "B", "wait"); return n.Set(Specification, "B", "wait") }, true},
	} {
		if told := test.tell(); told != test.told {
			t.Errorf("%d: told %t", i, told)
		}
	}
	if len(*events) != 4 {
		t.Errorf("recorded %q", *events)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	n, _, _ := newNotices()
	n.Set(Token, "T", "token")
	if reason, message := n.Problems(); reason != "" || message != "token" {
		t.Errorf("got %q, %q", reason, message)
	}
	n.Set(Istiod, "I", "same")
	n.Set(Attempt, "A", "same")
	if reason, message := n.Problems(); reason != "A" || message != "same; token" {
		t.Errorf("got %q, %q", reason, message)
	}
}

// What happens before there is an object to attach it to is recorded once there is, the last of it.
func TestSetAbout(t *testing.T) {
	t.Parallel()
	n, events, _ := newNotices()
	for i := range pendingLimit + 2 {
		n.Info(fmt.Sprint("Reason", i), "")
	}
	if len(*events) > 0 {
		t.Fatalf("recorded %q", *events)
	}
	n.SetAbout(named("mine"))
	n.SetAbout(named("mine"))
	if len(*events) != pendingLimit || (*events)[0] != "mine Reason2 false " {
		t.Errorf("recorded %d: %q", len(*events), *events)
	}
}

// The author of a specification can have another long message every second.
func TestMessagesTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	n, _, _ := newNotices()
	for i := range 2 * maxRemembered {
		n.Set(Specification, InvalidSpec, fmt.Sprint(i, strings.Repeat(" long", 1000)))
	}
	size := 0
	for p := range n.reported {
		size += len(p.reason) + len(p.message)
	}
	if limit := maxRemembered * (maxMessage + 64); size > limit {
		t.Errorf("%d bytes are kept, more than %d", size, limit)
	}
	if _, message := n.Problems(); len(message) > 4<<10 {
		t.Errorf("a health check answers %d bytes", len(message))
	}
}
