# The configuration of Vault for the VirtualMesh. Review it, then run it with a sufficient token in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows the differences.
# Note: The VirtualMesh logs in by kubernetes. To use jwt, replace that by: jwtAuth: {role: istiod, audience: vault}

# The address of Vault for the agents. VAULT_ADDR may already hold another address of the same Vault.
[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=https://vault.vault:8200

# istiod's agents log in here.
vault auth list -format=json | grep -qF '"jwt/"' || vault auth enable -path=jwt jwt

# Vault reads the API server's public keys there. It replaces the configuration of this mount, which is for one cluster.
vault write auth/jwt/config \
    jwks_ca_pem=@'my ca.crt' \
    jwks_url=https://10.0.0.1:6443/openid/v1/jwks

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without this, Vault signs for at most 768 hours, not for the 2160h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 7776000 ] || vault secrets tune -max-lease-ttl=2160h pki

# You provide its CA, once; this script creates and replaces none. If it has no CA yet:
#   a new CA, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or an existing CA:                  cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# One request, with pinned parameters: a CA of path length 0, with only istiod's name.
vault policy write istiod-agent-jwt-istiod - <<'EOF'
# Made by kubectl istiod-agent vault for auth/jwt/role/istiod
path "pki/root/sign-intermediate" {
  capabilities        = ["update"]
  required_parameters = ["csr", "uri_sans", "max_path_length", "exclude_cn_from_sans"]
  allowed_parameters = {
    "csr"                  = []
    "ttl"                  = []
    "format"               = ["pem"]
    "common_name"          = ["Istio"]
    "organization"         = ["Istio"]
    "uri_sans"             = ["spiffe://cluster.local/ns/istio-system/sa/istiod", "spiffe://cluster.local/ns/istio-system/sa/istiod-canary"]
    "max_path_length"      = ["0"]
    "exclude_cn_from_sans" = ["true"]
  }
}
EOF

# Who may log in, and with which policies. The agent revokes each login after use, so its lifetime may be short.
vault write auth/jwt/role/istiod - <<'EOF'
{"bound_audiences":"vault","bound_claims":{"sub":["system:serviceaccount:istio-system:istiod","system:serviceaccount:istio-system:istiod-canary"]},"bound_subject":"","role_type":"jwt","token_max_ttl":"10m","token_policies":"istiod-agent-jwt-istiod","token_ttl":"10m","user_claim":"sub"}
EOF
