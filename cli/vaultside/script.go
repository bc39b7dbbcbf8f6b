// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// print writes the commands that configure Vault, for any POSIX shell. They may run again. fromFile is true for a VirtualMesh in
// the person's file: only then its server is the default of VAULT_ADDR, to which the commands send the token.
func (w *Desired) print(out io.Writer, fromFile bool) error {
	p := &script{}
	p.comment("The configuration of Vault for the VirtualMesh. Review it, then run it with a sufficient token in VAULT_TOKEN.\n" +
		"It replaces a role and policies of these names; --dry-run shows the differences.")
	for _, note := range w.Notes {
		p.comment("Note: " + note)
	}
	if fromFile {
		p.command("The address of Vault for the agents. VAULT_ADDR may already hold another address of the same Vault.",
			`[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=`+shell.Quote(w.Server))
	} else {
		p.command("The VirtualMesh in the cluster names "+w.Server+"; your token is sent only to the address that you set.",
			`: "${VAULT_ADDR:?expected the address of your Vault}"`)
	}
	if w.Namespace != "" {
		p.command("The Vault namespace of the agents.", "export VAULT_NAMESPACE="+shell.Quote(w.Namespace))
	}
	if w.Auth != nil {
		w.Auth.printMount(p)
	}
	for _, mount := range w.Mounts {
		mount.print(p)
	}
	for _, policy := range w.Policies {
		p.command(policy.Comment, "vault policy write "+shell.Quote(policy.Name)+" - <<'EOF'\n"+policy.Text+"EOF")
	}
	if w.Auth != nil {
		w.Auth.printRole(p)
	}
	if terminal.Plain(p.String()) != p.String() {
		return errors.New("the VirtualMesh contains control or invisible characters, so the commands could differ from what they look like; remove these characters")
	}
	_, err := io.WriteString(out, p.String())
	return err
}

// rootAdvice returns the commands that give a mount its CA. The key goes through a pipe: every user of the machine can read a
// command line.
func rootAdvice(mount string) []string {
	return []string{
		"a new CA, whose key stays in Vault: vault write -field=certificate " + shell.Quote(mount+"/root/generate/internal") + " common_name=my-org ttl=87600h > root-cert.pem",
		"or an existing CA:                  cat root-key.pem root-cert.pem | vault write " + shell.Quote(mount+"/config/ca") + " pem_bundle=-",
	}
}

type script struct{ strings.Builder }

func (p *script) comment(text string) {
	for line := range strings.Lines(text) {
		p.WriteString("# " + strings.TrimSuffix(line, "\n") + "\n")
	}
}

func (p *script) command(comment, line string) {
	p.WriteString("\n")
	p.comment(comment)
	p.WriteString(line + "\n")
}

func (a *Auth) printMount(p *script) {
	p.command("istiod's agents log in here.", fmt.Sprintf("vault auth list -format=json | grep -qF %s || vault auth enable -path=%s %s", shell.Quote(`"`+a.Mount+`/"`), shell.Quote(a.Mount), a.Method))
	if !a.Configure || !a.hasConfig() {
		return
	}
	if a.Method == jwtAuth {
		a.printKeys(p)
		return
	}
	config := shell.Quote("auth/" + a.Mount + "/config")
	line := "vault write " + config + " \\\n    kubernetes_host=" + shell.Quote(a.Reviewer.host())
	comment := "This API server reviews their tokens."
	if a.Reviewer.isDefault() {
		line = "vault read -field=kubernetes_host " + config + " >/dev/null 2>&1 || " + line
		comment = "For a Vault in a Pod of this cluster, whose service account is bound to the ClusterRole system:auth-delegator;\n" +
			"for a Vault elsewhere, use --kubernetes-host and the flags beside it. An existing configuration stays."
	}
	if a.Reviewer.CAFile != "" {
		line += " \\\n    kubernetes_ca_cert=@" + shell.Quote(a.Reviewer.CAFile)
	}
	if a.Reviewer.TokenFile != "" {
		// Through a pipe: every user of the machine can read a command line. The token does not include the last line break.
		line = "tr -d '\\n' <" + shell.Quote(a.Reviewer.TokenFile) + " | " + line + " \\\n    token_reviewer_jwt=-"
	}
	p.command(comment, line)
}

func (m Mount) print(p *script) {
	comment := "Vault generates istiod's CA keys here. This mount needs no CA."
	if m.Signs {
		comment = "Vault signs istiod's CA certificates here."
	}
	p.command(comment, fmt.Sprintf("vault secrets list -format=json | grep -qF %s || vault secrets enable -path=%s pki", shell.Quote(`"`+m.Path+`/"`), shell.Quote(m.Path)))
	if !m.Signs {
		return
	}
	p.command(fmt.Sprintf("Without this, Vault signs for at most 768 hours, not for the %s of ttlDays.", formatDuration(m.MaxLease)),
		fmt.Sprintf(`[ "$(vault read -field=max_lease_ttl %s)" -ge %d ] || vault secrets tune -max-lease-ttl=%s %s`,
			shell.Quote("sys/mounts/"+m.Path+"/tune"), int(m.MaxLease/time.Second), formatDuration(m.MaxLease), shell.Quote(m.Path)))
	p.WriteString("\n")
	p.comment("You provide its CA, once; this script creates and replaces none. If it has no CA yet:")
	for _, advice := range rootAdvice(m.Path) {
		p.comment("  " + advice)
	}
}

func (a *Auth) printRole(p *script) {
	fields := a.fields()
	var line strings.Builder
	line.WriteString("vault write " + shell.Quote(a.rolePath()))
	if slices.ContainsFunc(fields, func(f roleField) bool { _, ok := f.value.(map[string]any); return ok }) { // which arguments cannot express
		data := map[string]any{}
		for _, field := range fields {
			data[field.name] = field.data()
		}
		line.WriteString(" - <<'EOF'\n" + format(data) + "\nEOF")
	} else {
		for _, field := range fields {
			value := shell.Quote(field.text())
			if field.file != "" {
				value = "@" + shell.Quote(field.file)
			}
			line.WriteString(" \\\n    " + field.name + "=" + value)
		}
	}
	p.command("Who may log in, and with which policies. The agent revokes each login after use, so its lifetime may be short.", line.String())
}
