# The configuration of Vault for the VirtualMesh. Review it, then run it with a sufficient token in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows the differences.
# Note: The VirtualMesh logs in by kubernetes. To use approle, replace that by: appRoleAuth: {roleId: <role id>, secretIdSecretRef: {name: <Secret>}}
# Note: This command neither reads the role id nor creates a secret id. For the VirtualMesh's roleId: vault read -field=role_id auth/approle/role/istiod/role-id
# For the Secret of secretIdSecretRef, in istiod's namespace: vault write -f -field=secret_id auth/approle/role/istiod/secret-id | kubectl create secret generic NAME -n NAMESPACE --from-file=secret-id=/dev/stdin
# Note: After five failed logins, Vault locks a role id for 15 minutes, for all replicas. A secret id cannot be guessed: vault auth tune -user-lockout-disable=true approle

# The address of Vault for the agents. VAULT_ADDR may already hold another address of the same Vault.
[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=https://vault.vault:8200

# istiod's agents log in here.
vault auth list -format=json | grep -qF '"approle/"' || vault auth enable -path=approle approle

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without this, Vault signs for at most 768 hours, not for the 2160h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 7776000 ] || vault secrets tune -max-lease-ttl=2160h pki

# You provide its CA, once; this script creates and replaces none. If it has no CA yet:
#   a new CA, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or an existing CA:                  cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# One request, with pinned parameters: a CA of path length 0, with only istiod's name.
vault policy write istiod-agent-approle-istiod - <<'EOF'
# Made by kubectl istiod-agent vault for auth/approle/role/istiod
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

# Who may log in, and with which policies. The agent revokes each login after use, so its lifetime may be short.
vault write auth/approle/role/istiod \
    secret_id_ttl=720h \
    secret_id_bound_cidrs=10.0.0.0/8 \
    token_bound_cidrs=10.0.0.0/8 \
    token_policies=istiod-agent-approle-istiod \
    token_ttl=10m \
    token_max_ttl=10m
