# The configuration of Vault for the VirtualMesh. Review it, then run it with a sufficient token in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows the differences.
# Note: The VirtualMesh logs in by kubernetes. To use token, replace that by: tokenSecretRef: {name: <Secret>}
# Note: The agents log in with the token of a Secret (tokenSecretRef), which this command does not create: it needs the policies below.

# The address of Vault for the agents. VAULT_ADDR may already hold another address of the same Vault.
[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=https://vault.vault:8200

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without this, Vault signs for at most 768 hours, not for the 2160h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 7776000 ] || vault secrets tune -max-lease-ttl=2160h pki

# You provide its CA, once; this script creates and replaces none. If it has no CA yet:
#   a new CA, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or an existing CA:                  cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# One request, with pinned parameters: a CA of path length 0, with only istiod's name.
vault policy write istiod-agent-istiod - <<'EOF'
# Made by kubectl istiod-agent vault for pki/root/sign-intermediate
path "pki/root/sign-intermediate" {
  capabilities        = ["update"]
  required_parameters = ["csr", "uri_sans", "max_path_length", "exclude_cn_from_sans"]
  allowed_parameters = {
    "csr"                  = []
    "ttl"                  = []
    "format"               = ["pem"]
    "common_name"          = ["Istio"]
    "organization"         = ["Istio"]
    "uri_sans"             = ["spiffe://cluster.local/ns/istio-system/sa/istiod"]
    "max_path_length"      = ["0"]
    "exclude_cn_from_sans" = ["true"]
  }
}
EOF
