// SPDX-License-Identifier: Apache-2.0

package vaultside_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/vaultside"
)

func TestPodReviewer(t *testing.T) {
	t.Parallel()
	auth := &vaultside.Auth{Mount: "kubernetes-east"}
	for name, test := range map[string]struct {
		config        map[string]any
		warns, likely bool
	}{
		"no configuration":        {nil, false, false},
		"no token":                {map[string]any{"token_reviewer_jwt_set": false, "kubernetes_host": "https://10.96.0.1:443"}, false, false},
		"a Vault that is older":   {map[string]any{"kubernetes_host": "https://10.96.0.1:443"}, false, false},
		"the guide's":             {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://10.96.0.1:443"}, true, true},
		"the guide's, IPv6":       {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://[fd00::1]:443"}, true, true},
		"the Service by its name": {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://kubernetes.default.svc.cluster.local"}, true, true},
		"a cluster's own address": {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://10.0.0.1:6443"}, true, false},
		"a cloud's":               {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://34.1.2.3"}, true, false},
		"a name":                  {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "https://kubernetes.default.evil.example.com"}, true, false},
		"something else":          {map[string]any{"token_reviewer_jwt_set": true, "kubernetes_host": "%"}, true, false},
	} {
		warning, likely := (&vaultside.Observed{Config: test.config}).PodReviewer(auth)
		if (warning != "") != test.warns || likely != test.likely || test.warns && !strings.Contains(warning, "auth/kubernetes-east/config holds a token_reviewer_jwt") {
			t.Errorf("%s: %q, likely: %t", name, warning, likely)
		}
	}
}

// The end of a token that is to review others is noted before it is given to Vault.
func TestReviewerExpiry(t *testing.T) {
	t.Parallel()
	jwt := func(claims string) string { return "a." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c" }
	for token, note := range map[string]string{
		jwt(`{"exp":1893456000}`): "The token in reviewer.jwt expires at 2030-01-01T00:00:00Z",
		jwt(`{"sub":"a"}`):        "",
		jwt(`{"exp":"soon"}`):     "",
		jwt(`{"exp":1e300}`):      "",
		"no JWT":                  "",
		"a.%.c":                   "",
	} {
		desired := want(t, read(t, "-", localKey), vaultside.Options{Reviewer: vaultside.Reviewer{TokenFile: "reviewer.jwt", Token: token}})
		notes := strings.Join(desired.Notes, "\n")
		if note == "" && strings.Contains(notes, "reviewer.jwt") || !strings.Contains(notes, note) || strings.Contains(notes, token) {
			t.Errorf("%s: %s", token, notes)
		}
	}
}
