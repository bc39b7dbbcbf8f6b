# The Vault side of the VirtualMesh. Review it, then run it with a token that may do this in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows what there is.

# The VirtualMesh in the cluster names https://vault.vault:8200; your token goes nowhere but to the address that you set.
: "${VAULT_ADDR:?expected the address of your Vault}"

# Service accounts log in here.
vault auth list -format=json | grep -qF '"kubernetes/"' || vault auth enable -path=kubernetes kubernetes

# For a Vault in a Pod of this cluster, whose service account is bound to the ClusterRole system:auth-delegator;
# for one elsewhere use --kubernetes-host and its companions. What is set already stays.
vault read -field=kubernetes_host auth/kubernetes/config >/dev/null 2>&1 || vault write auth/kubernetes/config \
    kubernetes_host=https://kubernetes.default.svc

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without it Vault signs for 768 hours at most, and not for the 2160h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 7776000 ] || vault secrets tune -max-lease-ttl=2160h pki

# Its CA is yours to give, once; nothing here makes or replaces one. If it has none yet:
#   a new one, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or one that you have:                cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# One call, with pinned parameters: a CA of path length 0, of istiod's name alone.
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

# Who may log in, and for what. The agent logs in anew each time and revokes the login, so that it may be short.
vault write auth/kubernetes/role/istiod \
    bound_service_account_names=istiod \
    bound_service_account_namespaces=istio-system \
    audience=vault \
    token_policies=istiod-agent-istiod \
    token_ttl=10m \
    token_max_ttl=10m
