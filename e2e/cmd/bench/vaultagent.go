// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// vaultAgent has HashiCorp's `vault agent` log in as the Pod does and keep one file, the root certificate: the least
// that anybody would run it for in our sidecar's place.
func vaultAgent(ctx context.Context, vault *vaultserver.Server, pod *agents.Pod, dir string) (_ []result, err error) {
	program, err := built.WholeVault()
	if err != nil {
		return nil, err
	}
	configuration, written := filepath.Join(dir, "vault-agent.hcl"), filepath.Join(dir, "root-cert.pem")
	if err := os.WriteFile(configuration, fmt.Appendf(nil, `
vault { address = %q }
auto_auth {
  method "kubernetes" {
    config = { role = "gen-int-ca-istio", token_path = %q }
  }
}
template {
  contents    = "{{ with secret \"pki/cert/ca\" }}{{ .Data.certificate }}{{ end }}"
  destination = %q
}
`, vault.Address, pod.TokenFile, written), 0o600); err != nil {
		return nil, err
	}
	started, err := process.Start("vault agent", exec.CommandContext(context.WithoutCancel(ctx), program, "agent", "-config", configuration))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, started.Stop(10*time.Second)) }()
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := started.WaitUntil(waiting, "it has written its file", func(context.Context) error { _, err := os.Stat(written); return err }); err != nil {
		return nil, err
	}
	resident, err := settled(ctx, started.PID())
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(program)
	if err != nil {
		return nil, err
	}
	return []result{
		memory("beside it, `vault agent` at rest, resident", resident, 0),
		{measure: "beside it, size of `vault`", value: fmt.Sprintf("%.1f MB", float64(info.Size())/1e6)},
	}, nil
}
