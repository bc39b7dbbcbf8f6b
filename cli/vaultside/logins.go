// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/shell"
)

// The ways to log in, which are Vault's types of auth methods, or a token.
const (
	kubernetesAuth = "kubernetes"
	jwtAuth        = "jwt"
	appRoleAuth    = "approle"
	certAuth       = "cert"
	tokenAuth      = "token"
)

// logins are the values of --auth.
var logins = []string{kubernetesAuth, jwtAuth, appRoleAuth, certAuth, tokenAuth}

// DefaultSecretIDTTL is the validity of secret ids.
const DefaultSecretIDTTL = 720 * time.Hour

// defaultRole is the role of a login whose specification names none.
const defaultRole = "istiod"

// login is a way to log in.
type login struct{ method, mountPath, role, audience string }

// loginOf returns the login of a specification.
func loginOf(v *certificatesv1.VaultCA) login {
	switch {
	case v.KubernetesAuth != nil:
		return login{kubernetesAuth, v.KubernetesAuth.MountPath, v.KubernetesAuth.Role, v.KubernetesAuth.Audience}
	case v.JWTAuth != nil:
		return login{jwtAuth, v.JWTAuth.MountPath, v.JWTAuth.Role, v.JWTAuth.Audience}
	case v.AppRoleAuth != nil:
		return login{appRoleAuth, v.AppRoleAuth.MountPath, "", ""}
	case v.CertAuth != nil:
		return login{certAuth, v.CertAuth.MountPath, v.CertAuth.Role, ""}
	}
	return login{method: tokenAuth}
}

// login returns the desired login: the specification's, or that of --auth.
func (o *Options) login(v *certificatesv1.VaultCA) (desired login, err error) {
	present := loginOf(v)
	desired = present
	if o.Auth != "" && o.Auth != present.method {
		desired = login{method: o.Auth, role: present.role, audience: cmp.Or(present.audience, "vault")}
	}
	switch {
	case !slices.Contains(logins, desired.method):
		return desired, fmt.Errorf("--auth %q: expected one of %s", o.Auth, strings.Join(logins, ", "))
	case o.Role != "" && present.role != "" && o.Role != present.role:
		return desired, fmt.Errorf("--role %q: expected none, or %q, which the VirtualMesh names", o.Role, present.role)
	}
	desired.role = cmp.Or(desired.role, o.Role, defaultRole)
	if !roleName.MatchString(desired.role) {
		return desired, fmt.Errorf("--role %q: expected letters, digits, - . and _", desired.role)
	}
	desired.mountPath = cmp.Or(desired.mountPath, "auth/"+desired.method)
	return desired, nil
}

// OfAssumedRole reports whether a difference is about a role whose name is only assumed, or about its policies.
func (w *Desired) OfAssumedRole(difference Difference) bool {
	return w.Auth != nil && w.Auth.Assumed && (difference.What == w.Auth.rolePath() || strings.HasPrefix(difference.What, "policy "))
}

// policy is the policy's name. A policy is of one role, so that the roles of two auth methods may have one name.
func (l login) policy() string {
	name := strings.ToLower(l.role)
	if l.method != kubernetesAuth {
		name = l.method + "-" + name
	}
	return derivedPrefix + name
}

// fieldsOf are the login's lines in a VirtualMesh.
func (l login) fieldsOf() string {
	switch l.method {
	case kubernetesAuth:
		return fmt.Sprintf("kubernetesAuth: {role: %s, audience: %s}", l.role, l.audience)
	case jwtAuth:
		return fmt.Sprintf("jwtAuth: {role: %s, audience: %s}", l.role, l.audience)
	case appRoleAuth:
		return "appRoleAuth: {roleId: <role id>, secretIdSecretRef: {name: <Secret>}}"
	case certAuth:
		return fmt.Sprintf("certAuth: {role: %s, certSecretRef: {name: <Secret>}}", l.role)
	}
	return "tokenSecretRef: {name: <Secret>}"
}

// noteLogin notes what remains for the person to do.
func (w *Desired) noteLogin(present, desired login) {
	if present.method != desired.method {
		w.note("The VirtualMesh logs in by %s. To use %s, replace that by: %s", present.method, desired.method, desired.fieldsOf())
	}
	switch desired.method {
	case appRoleAuth:
		path := w.Auth.rolePath()
		w.note("This command neither reads the role id nor creates a secret id. For the VirtualMesh's roleId: vault read -field=role_id %s\n"+
			"For the Secret of secretIdSecretRef, in istiod's namespace: vault write -f -field=secret_id %s | kubectl create secret generic NAME -n NAMESPACE --from-file=secret-id=/dev/stdin",
			shell.Quote(path+"/role-id"), shell.Quote(path+"/secret-id"))
		w.note("After five failed logins, Vault locks a role id for 15 minutes, for all replicas. A secret id cannot be guessed: vault auth tune -user-lockout-disable=true %s", shell.Quote(w.Auth.Mount))
	case certAuth:
		w.note("The client certificate in the Secret of certSecretRef must be signed by the CA of --client-ca-file and have one of these URI names: %s", strings.Join(w.Auth.Role.Hosts, ", "))
	case tokenAuth:
		w.note("The agents log in with the token of a Secret (tokenSecretRef), which this command does not create: it needs the policies below.")
	}
}

// fields are those of the role, by the auth method.
func (a *Auth) fields() []roleField {
	role := &a.Role
	var fields []roleField
	switch a.Method {
	case jwtAuth:
		fields = []roleField{{name: "role_type", value: "jwt"}, {name: "user_claim", value: "sub"}, {name: "bound_audiences", value: []string{role.Audience}}}
		if subjects := role.subjects(); len(subjects) == 1 {
			fields = append(fields, roleField{name: "bound_subject", value: subjects[0]})
		} else {
			fields = append(fields, roleField{name: "bound_subject", value: ""}, roleField{name: "bound_claims", value: map[string]any{"sub": subjects}})
		}
	case appRoleAuth:
		fields = []roleField{{name: "secret_id_ttl", value: role.SecretIDTTL}}
		if len(role.CIDRs) > 0 {
			fields = append(fields, roleField{name: "secret_id_bound_cidrs", value: role.CIDRs}, roleField{name: "token_bound_cidrs", value: role.CIDRs})
		}
	case certAuth:
		if role.ClientCAFile != "" {
			fields = append(fields, roleField{name: "certificate", value: strings.TrimSpace(role.ClientCA), file: role.ClientCAFile})
		}
		fields = append(fields, roleField{name: "allowed_uri_sans", value: role.Hosts})
	default:
		fields = []roleField{{name: "bound_service_account_names", value: role.ServiceAccounts}, {name: "bound_service_account_namespaces", value: role.Namespaces}}
		if role.Audience != "" {
			fields = append(fields, roleField{name: "audience", value: role.Audience})
		}
	}
	return append(fields,
		roleField{name: "token_policies", value: role.Policies},
		roleField{name: "token_ttl", value: role.TokenTTL},
		roleField{name: "token_max_ttl", value: role.TokenTTL},
	)
}

// subjects are the subjects of the service accounts' tokens.
func (r *Role) subjects() (all []string) {
	for _, namespace := range r.Namespaces {
		for _, account := range r.ServiceAccounts {
			all = append(all, "system:serviceaccount:"+namespace+":"+account)
		}
	}
	return all
}

// Keys are the keys by which Vault verifies service account tokens. One of PEM, URL and Discovery is set.
type Keys struct {
	// PEM are the public keys themselves.
	PEM []string
	// URL is the address of a JSON Web Key Set, Discovery that of the issuer.
	URL, Discovery string
	// CAFile holds the CA of that address in PEM, CA is its content.
	CAFile, CA string
}

// data returns the configuration of the JWT auth method.
func (k *Keys) data() map[string]any {
	data := map[string]any{}
	set := func(name, value string) {
		if value != "" {
			data[name] = value
		}
	}
	if len(k.PEM) > 0 {
		data["jwt_validation_pubkeys"] = k.PEM
	}
	set("jwks_url", k.URL)
	set("oidc_discovery_url", k.Discovery)
	if k.URL != "" {
		set("jwks_ca_pem", k.CA)
	} else {
		set("oidc_discovery_ca_pem", k.CA)
	}
	return data
}

// jwtFields are the fields of the configuration that Keys sets.
var jwtFields = []string{"jwt_validation_pubkeys", "jwks_url", "oidc_discovery_url", "jwks_ca_pem", "oidc_discovery_ca_pem"}

// keysDifference compares the configuration of the JWT auth method. Vault replaces the whole of it at each write.
func (a *Auth) keysDifference(observed map[string]any) *Difference {
	path, data := "auth/"+a.Mount+"/config", a.Keys.data()
	var removed, added []string
	exists := false
	for _, name := range jwtFields {
		before, after := jwtLines(name, observed[name]), jwtLines(name, data[name])
		exists = exists || len(before) > 0
		for _, line := range before {
			if !slices.Contains(after, line) {
				removed = append(removed, "- "+line)
			}
		}
		for _, line := range after {
			if !slices.Contains(before, line) {
				added = append(added, "+ "+line)
			}
		}
	}
	if len(removed)+len(added) == 0 {
		return nil
	}
	kind := Differs
	if !exists {
		kind = Missing
	}
	for _, field := range []string{"bound_issuer", "default_role", "jwt_supported_algs"} { // they stay
		if value := observed[field]; value != nil {
			data[field] = value
		}
	}
	return &Difference{
		Kind: kind, What: path, Lines: append(removed, added...), Done: "wrote the keys that verify tokens",
		NeedsForce: len(removed) > 0, change: &change{"write the data", path, data},
	}
}

// jwtLines describes the value of a field: keys and certificates by their digests.
func jwtLines(name string, value any) (lines []string) {
	add := func(text string) {
		if text = strings.TrimSpace(text); text == "" {
			return
		}
		if strings.HasPrefix(text, "-----BEGIN ") {
			text = "SHA-256 " + digest(text)
		}
		lines = append(lines, name+" "+text)
	}
	switch value := value.(type) {
	case string:
		add(value)
	case []string:
		for _, text := range value {
			add(text)
		}
	case []any:
		for _, text := range value {
			add(fmt.Sprint(text))
		}
	}
	return lines
}

// printKeys prints the configuration of the JWT auth method.
func (a *Auth) printKeys(p *script) {
	config := shell.Quote("auth/" + a.Mount + "/config")
	if len(a.Keys.PEM) > 0 {
		p.command("The API server's public keys: Vault verifies tokens by them and never calls the API server. Repeat this after a change of the keys.\nIt replaces the configuration of this mount, which is for one cluster.",
			"vault write "+config+" - <<'EOF'\n"+format(map[string]any{"jwt_validation_pubkeys": a.Keys.PEM})+"\nEOF")
		return
	}
	var line strings.Builder
	line.WriteString("vault write " + config)
	data := a.Keys.data()
	for _, name := range slices.Sorted(maps.Keys(data)) {
		value := shell.Quote(fmt.Sprint(data[name]))
		if strings.HasSuffix(name, "_ca_pem") {
			value = "@" + shell.Quote(a.Keys.CAFile)
		}
		line.WriteString(" \\\n    " + name + "=" + value)
	}
	p.command("Vault reads the API server's public keys there. It replaces the configuration of this mount, which is for one cluster.", line.String())
}
