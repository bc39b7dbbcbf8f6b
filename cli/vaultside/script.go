// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// Print writes the commands that make Vault as is wanted, for any POSIX shell, in order. Run twice they do no harm.
// given says that the VirtualMesh comes from the person's file. Only then is its server the default for VAULT_ADDR, to which
// the commands send the token.
func (w *Desired) Print(out io.Writer, fromFile bool) error {
	p := &script{}
	p.comment("The Vault side of the VirtualMesh. Review it, then run it with a token that may do this in VAULT_TOKEN.\n" +
		"It replaces a role and policies of these names; --dry-run shows what there is.")
	for _, note := range w.Notes {
		p.comment("Note: " + note)
	}
	if fromFile {
		p.command("Where the agents find Vault; another way to the same one may be in VAULT_ADDR already.",
			`[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=`+shell.Quote(w.Server))
	} else {
		p.command("The VirtualMesh in the cluster names "+w.Server+"; your token goes nowhere but to the address that you set.",
			`: "${VAULT_ADDR:?expected the address of your Vault}"`)
	}
	if w.Namespace != "" {
		p.command("The namespace of Vault's that the agents use.", "export VAULT_NAMESPACE="+shell.Quote(w.Namespace))
	}
	if w.Auth != nil {
		w.Auth.printMount(p)
	}
	for _, mount := range w.Mounts {
		mount.print(p)
	}
	for _, policy := range w.Policies {
		p.command(policy.Why, "vault policy write "+shell.Quote(policy.Name)+" - <<'EOF'\n"+policy.Text+"EOF")
	}
	if w.Auth != nil {
		w.Auth.Role.print(p, w.Auth.Mount)
	}
	if terminal.Plain(p.String()) != p.String() {
		return errors.New("the VirtualMesh holds control or invisible characters, with which commands would not be what they look like; remove them from the VirtualMesh")
	}
	_, err := io.WriteString(out, p.String())
	return err
}

// RootAdvice says how a mount gets its CA, which nothing here does. The key goes through a pipe: a command line is readable
// for every user of the machine.
func RootAdvice(mount string) []string {
	return []string{
		"a new one, whose key stays in Vault: vault write -field=certificate " + shell.Quote(mount+"/root/generate/internal") + " common_name=my-org ttl=87600h > root-cert.pem",
		"or one that you have:                cat root-key.pem root-cert.pem | vault write " + shell.Quote(mount+"/config/ca") + " pem_bundle=-",
	}
}

type script struct{ strings.Builder }

// comment never ends before the text does.
func (p *script) comment(text string) {
	for line := range strings.Lines(text) {
		p.WriteString("# " + strings.TrimSuffix(line, "\n") + "\n")
	}
}

// command writes a command with why it is there.
func (p *script) command(why, line string) {
	p.WriteString("\n")
	if why != "" {
		p.comment(why)
	}
	p.WriteString(line + "\n")
}

func (a *Auth) printMount(p *script) {
	p.command("Service accounts log in here.", fmt.Sprintf("vault auth list -format=json | grep -qF %s || vault auth enable -path=%s kubernetes", shell.Quote(`"`+a.Mount+`/"`), shell.Quote(a.Mount)))
	if !a.Configure {
		return
	}
	at := shell.Quote("auth/" + a.Mount + "/config")
	line := "vault write " + at + " \\\n    kubernetes_host=" + shell.Quote(a.Reviewer.host())
	why := "Vault has their tokens reviewed by this API server."
	if a.Reviewer.isDefault() {
		line = "vault read -field=kubernetes_host " + at + " >/dev/null 2>&1 || " + line
		why = "For a Vault in a Pod of this cluster, whose service account is bound to the ClusterRole system:auth-delegator;\n" +
			"for one elsewhere use --kubernetes-host and its companions. What is set already stays."
	}
	if a.Reviewer.CAFile != "" {
		line += " \\\n    kubernetes_ca_cert=@" + shell.Quote(a.Reviewer.CAFile)
	}
	if a.Reviewer.TokenFile != "" {
		// Through a pipe: a command line is readable for every user of the machine. The file's last line break is no part of
		// the token.
		line = "tr -d '\\n' <" + shell.Quote(a.Reviewer.TokenFile) + " | " + line + " \\\n    token_reviewer_jwt=-"
	}
	p.command(why, line)
}

func (m Mount) print(p *script) {
	why := "Vault makes istiod's CA keys here. It needs no CA."
	if m.Signs {
		why = "Vault signs istiod's CA certificates here."
	}
	p.command(why, fmt.Sprintf("vault secrets list -format=json | grep -qF %s || vault secrets enable -path=%s pki", shell.Quote(`"`+m.Path+`/"`), shell.Quote(m.Path)))
	if !m.Signs {
		return
	}
	p.command(fmt.Sprintf("Without it Vault signs for 768 hours at most, and not for the %s of ttlDays.", hours(m.MaxLease)),
		fmt.Sprintf(`[ "$(vault read -field=max_lease_ttl %s)" -ge %d ] || vault secrets tune -max-lease-ttl=%s %s`,
			shell.Quote("sys/mounts/"+m.Path+"/tune"), int(m.MaxLease/time.Second), hours(m.MaxLease), shell.Quote(m.Path)))
	p.WriteString("\n")
	p.comment("Its CA is yours to give, once; nothing here makes or replaces one. If it has none yet:")
	for _, advice := range RootAdvice(m.Path) {
		p.comment("  " + advice)
	}
}

func (r *Role) print(p *script, mount string) {
	var line strings.Builder
	line.WriteString("vault write " + shell.Quote("auth/"+mount+"/role/"+r.Name))
	for _, field := range r.fields() {
		line.WriteString(" \\\n    " + field.name + "=" + shell.Quote(field.text()))
	}
	p.command("Who may log in, and for what. The agent logs in anew each time and revokes the login, so that it may be short.", line.String())
}
