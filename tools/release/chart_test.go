// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestPin(t *testing.T) {
	digests := map[string]string{"agent": "sha256:a", "webhook": "sha256:b"}
	for name, test := range map[string]struct{ values, want, err string }{
		"an image, with its comments": {
			values: "image:\n  # Where.\n  repository: ghcr.io/x/agent\n  tag: \"\"\n  # Which.\n  digest: \"\"\nmore: 1\n",
			want:   "image:\n  # Where.\n  repository: r.test/y/agent\n  tag: \"\"\n  # Which.\n  digest: sha256:a\nmore: 1\n",
		},
		"two images": {
			values: "a:\n  digest: \"\"\n  repository: agent\nb:\n  c: {}\n  repository: x/webhook\n  digest: old\n",
			want:   "a:\n  digest: sha256:a\n  repository: r.test/y/agent\nb:\n  c: {}\n  repository: r.test/y/webhook\n  digest: sha256:b\n",
		},
		"another image":          {values: "image:\n  repository: x/other\n  digest: \"\"\n", err: "line 2: image x/other is not in the release"},
		"a repository alone":     {values: "repository: x/agent\n", err: "no image"},
		"nothing":                {err: "no image"},
		"what is not YAML":       {values: "\t", err: "yaml"},
		"an image without quote": {values: "image:\n  repository: agent\n  digest:\n", err: "digest has no value"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pin(test.values, "r.test/y", digests)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %v\n%s\nwant\n%s", err, got, test.want)
			}
		})
	}
}
