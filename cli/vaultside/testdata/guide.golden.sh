# The Vault side of the VirtualMesh. Review it, then run it with a token that may do this in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows what there is.
# Note: The agents log in with a token that is valid for the API server too: its receiver can use it there. Two lines prevent that, changed together: audience: vault below kubernetesAuth in the VirtualMesh, and audience=vault in the role, which this command then adds.
# Note: With csrPath the CA key is made in Vault and sent to istiod; safer: no csrPath, and the key never leaves istiod's Pod.
# Note: The server is an http:// one: logins and, with csrPath, CA keys can be read on the network; use https://.

# Where the agents find Vault; another way to the same one may be in VAULT_ADDR already.
[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR=http://vault.vault:8200

# Service accounts log in here.
vault auth list -format=json | grep -qF '"kubernetes/"' || vault auth enable -path=kubernetes kubernetes

# For a Vault in a Pod of this cluster, whose service account is bound to the ClusterRole system:auth-delegator;
# for one elsewhere use --kubernetes-host and its companions. What is set already stays.
vault read -field=kubernetes_host auth/kubernetes/config >/dev/null 2>&1 || vault write auth/kubernetes/config \
    kubernetes_host=https://kubernetes.default.svc

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"pki/"' || vault secrets enable -path=pki pki

# Without it Vault signs for 768 hours at most, and not for the 8760h of ttlDays.
[ "$(vault read -field=max_lease_ttl sys/mounts/pki/tune)" -ge 31536000 ] || vault secrets tune -max-lease-ttl=8760h pki

# Its CA is yours to give, once; nothing here makes or replaces one. If it has none yet:
#   a new one, whose key stays in Vault: vault write -field=certificate pki/root/generate/internal common_name=my-org ttl=87600h > root-cert.pem
#   or one that you have:                cat root-key.pem root-cert.pem | vault write pki/config/ca pem_bundle=-

# Vault makes istiod's CA keys here. It needs no CA.
vault secrets list -format=json | grep -qF '"pki_int/"' || vault secrets enable -path=pki_int pki

# One call, with pinned parameters: a CA of path length 0, of istiod's name alone.
vault policy write istiod-agent-gen-int-ca-istio - <<'EOF'
# Made by kubectl istiod-agent vault for auth/kubernetes/role/gen-int-ca-istio
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

# csrPath: Vault makes istiod's CA key and hands it out. The second path lets the agent remove the copy that Vault keeps.
vault policy write istiod-agent-gen-int-ca-istio-exported - <<'EOF'
# Made by kubectl istiod-agent vault for auth/kubernetes/role/gen-int-ca-istio
path "pki_int/intermediate/generate/exported" {
  capabilities = ["update"]
}
path "pki_int/key/*" {
  capabilities = ["delete"]
}
EOF

# Who may log in, and for what. The agent logs in anew each time and revokes the login, so that it may be short.
vault write auth/kubernetes/role/gen-int-ca-istio \
    bound_service_account_names=istiod \
    bound_service_account_namespaces=istio-system \
    token_policies=istiod-agent-gen-int-ca-istio,istiod-agent-gen-int-ca-istio-exported \
    token_ttl=10m \
    token_max_ttl=10m
