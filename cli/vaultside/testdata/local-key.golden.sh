# The configuration of Vault for the VirtualMesh. Review it, then run it with a sufficient token in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows the differences.

# The VirtualMesh in the cluster names https://vault.vault:8200; your token is sent only to the address that you set.
: "${VAULT_ADDR:?expected the address of your Vault}"

# istiod's agents log in here.
vault auth list -format=json | grep -qF '"kubernetes/"' || vault auth enable -path=kubernetes kubernetes

# For a Vault in a Pod of this cluster, whose service account is bound to the ClusterRole system:auth-delegator;
# for a Vault elsewhere, use --kubernetes-host and the flags beside it. An existing configuration stays.
vault read -field=kubernetes_host auth/kubernetes/config >/dev/null 2>&1 || vault write auth/kubernetes/config \
    kubernetes_host=https://kubernetes.default.svc

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without this, Vault signs for at most 768 hours, not for the 2160h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 7776000 ] || vault secrets tune -max-lease-ttl=2160h pki

# You provide its CA, once; this script creates and replaces none. If it has no CA yet:
#   a new CA, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or an existing CA:                  cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# One request, with pinned parameters: a CA of path length 0, with only istiod's name.
vault policy write istiod-agent-istiod - <<'EOF'
# Made by kubectl istiod-agent vault for auth/kubernetes/role/istiod
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
vault write auth/kubernetes/role/istiod \
    bound_service_account_names=istiod \
    bound_service_account_namespaces=istio-system \
    audience=vault \
    token_policies=istiod-agent-istiod \
    token_ttl=10m \
    token_max_ttl=10m
