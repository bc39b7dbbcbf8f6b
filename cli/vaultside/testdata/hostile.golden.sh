# The Vault side of the VirtualMesh. Review it, then run it with a token that may do this in VAULT_TOKEN.
# It replaces a role and policies of these names; --dry-run shows what there is.
# Note: The agents log in with the token of a Secret (tokenSecretRef), which is not looked after here: it needs the policies below.
# Note: Mesh istiod-other-cluster-1 does not look like one in namespace istio-system: name its namespace by --istiod-namespace.

# Where the agents find Vault; another way to the same one may be in VAULT_ADDR already.
[ -n "${VAULT_ADDR:-}" ] || export VAULT_ADDR='https://$(id)'

# The namespace of Vault's that the agents use.
export VAULT_NAMESPACE='a$(id)/b'

# Vault signs istiod's CA certificates here.
vault secrets list -format=json | grep -qF '"p'\''k$(id)i/"' || vault secrets enable -path='p'\''k$(id)i' pki

# Without it Vault signs for 768 hours at most, and not for the 8760h of ttlDays.
[ "$(vault read -field=max_lease_ttl 'sys/mounts/p'\''k$(id)i/tune')" -ge 31536000 ] || vault secrets tune -max-lease-ttl=8760h 'p'\''k$(id)i'

# Its CA is yours to give, once; nothing here makes or replaces one. If it has none yet:
#   a new one, whose key stays in Vault: vault write -field=certificate 'p'\''k$(id)i/root/generate/internal' common_name=my-org ttl=87600h > root-cert.pem
#   or one that you have:                cat root-key.pem root-cert.pem | vault write 'p'\''k$(id)i/config/ca' pem_bundle=-

# One call, with pinned parameters: a CA of path length 0, of istiod's name alone.
vault policy write istiod-agent-istiod - <<'EOF'
# Made by kubectl istiod-agent vault for p'k$(id)i/root/sign-intermediate
path "p'k$(id)i/root/sign-intermediate" {
  capabilities        = ["update"]
  required_parameters = ["csr", "uri_sans", "max_path_length", "exclude_cn_from_sans"]
  allowed_parameters = {
    "csr"                  = []
    "ttl"                  = []
    "format"               = ["pem"]
    "common_name"          = ["a \"b\" $(c) \\d"]
    "organization"         = ["a \"b\" $(c) \\d"]
    "uri_sans"             = ["spiffe://cluster.local/ns/istio-system/sa/istiod"]
    "max_path_length"      = ["0"]
    "exclude_cn_from_sans" = ["true"]
  }
}
EOF
