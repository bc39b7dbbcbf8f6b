// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Clusters are several clusters whose Pods can reach each other.
type Clusters struct {
	All []*Cluster
	// Kubeconfig is the path of a kubeconfig with a context for each cluster. The first one is current.
	Kubeconfig string
	// Programs is the path of a folder with kubectl, helm, istioctl and the plugin.
	Programs string
}

// StartSeveral starts clusters 1 to n below dir. The caller must call Stop, also after an error.
func StartSeveral(ctx context.Context, n int, dir string, out io.Writer) (*Clusters, error) {
	c := &Clusters{All: make([]*Cluster, n), Kubeconfig: filepath.Join(dir, "kubeconfig"), Programs: filepath.Join(dir, "bin")}
	var starting errgroup.Group
	for i := range n {
		starting.Go(func() (err error) {
			c.All[i], err = Start(ctx, i+1, dir, out)
			return err
		})
	}
	if err := starting.Wait(); err != nil {
		return c, err
	}
	merged := clientcmdapi.NewConfig()
	for i, cluster := range c.All {
		for _, other := range c.All[:i] {
			if err := Join(ctx, other, cluster); err != nil {
				return c, err
			}
		}
		config, err := clientcmd.LoadFromFile(cluster.Kubeconfig)
		if err != nil {
			return c, err
		}
		merged.Clusters[cluster.Name], merged.AuthInfos[cluster.Name] = config.Clusters[cluster.Name], config.AuthInfos[cluster.Name]
		merged.Contexts[cluster.Name] = config.Contexts[cluster.Name]
	}
	merged.CurrentContext = c.All[0].Name
	return c, errors.Join(clientcmd.WriteToFile(*merged, c.Kubeconfig), c.linkPrograms())
}

// linkPrograms fills the folder Programs.
func (c *Clusters) linkPrograms() error {
	if err := os.MkdirAll(c.Programs, 0o700); err != nil {
		return err
	}
	of := c.All[0].programs
	for _, program := range []string{of.Kubectl, of.Helm, of.Istioctl, of.Plugin} {
		link := filepath.Join(c.Programs, filepath.Base(program))
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(program, link); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops and removes all clusters.
func (c *Clusters) Stop() error {
	errs := make([]error, len(c.All))
	var stopping errgroup.Group
	for i, cluster := range c.All {
		stopping.Go(func() error {
			if cluster != nil {
				errs[i] = cluster.Stop()
			}
			return nil
		})
	}
	_ = stopping.Wait() // the errors are in errs
	return errors.Join(errors.Join(errs...), os.RemoveAll(c.Kubeconfig), os.RemoveAll(c.Programs))
}
