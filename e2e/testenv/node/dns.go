// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

//go:embed templates/coredns.yaml
var coreDNSTemplate string

// startDNS installs CoreDNS and returns once it is ready.
func (c *Cluster) startDNS(ctx context.Context) error {
	parsed, err := template.New("coredns").Parse(coreDNSTemplate)
	if err != nil {
		return err
	}
	var manifest bytes.Buffer
	if err := parsed.Execute(&manifest, configuration{DNS: c.address.dns}); err != nil {
		return err
	}
	apply := c.Kubectl(ctx, "apply", "--server-side", "-f", "-")
	apply.Stdin = &manifest
	if output, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, output)
	}
	return wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		deployment, err := c.Client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		return err == nil && deployment.Status.ReadyReplicas > 0, nil
	})
}

// loadImages imports all images that were built for the tests. The node never pulls an image.
func (c *Cluster) loadImages(ctx context.Context) error {
	archives, err := filepath.Glob(filepath.Join(c.programs.Images, "*.tar"))
	if err != nil {
		return err
	}
	if len(archives) == 0 {
		return errors.New("no images in " + c.programs.Images + "; build them with `make test-images`")
	}
	slices.Sort(archives)
	var loading errgroup.Group
	loading.SetLimit(2)
	for _, archive := range archives {
		loading.Go(func() error { return c.Load(ctx, archive) })
	}
	return loading.Wait()
}

// Load imports an image archive, as `kind load image-archive` does.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	output, err := exec.CommandContext(ctx, c.programs.Ctr, "--address", c.socket(), "--namespace", "k8s.io", "images", "import", "--local", archive).CombinedOutput()
	if err != nil {
		return fmt.Errorf("loading %s: %w: %s", filepath.Base(archive), err, strings.TrimSpace(string(output)))
	}
	return nil
}
