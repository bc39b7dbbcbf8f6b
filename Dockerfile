# The images, described once: a stage for each of the Makefile's IMAGES. `make image` builds them from this file without Docker;
# Docker itself gives the same from the binaries that `make image` leaves in bin/:
#
#   docker build --target agent --build-arg VERSION=… --build-arg REVISION=… .
#
# tools/image understands the instructions used here and refuses every other.

FROM scratch AS agent
ARG TARGETARCH
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="istiod-agent" \
      org.opencontainers.image.description="Gives istiod an intermediate CA that comes from Vault and lives only in memory" \
      org.opencontainers.image.source="https://github.com/istiod-agent/istiod-agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chmod=0555 bin/linux-${TARGETARCH}/istiod-agent /istiod-agent
COPY --chmod=0444 bin/linux-${TARGETARCH}/istiod-agent.licenses /licenses/istiod-agent.txt
# istiod's own user and group, so that both may use the files they share.
USER 1337:1337
ENTRYPOINT ["/istiod-agent"]

FROM scratch AS webhook
ARG TARGETARCH
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="istiod-agent-webhook" \
      org.opencontainers.image.description="Injects istiod-agent into istiod as it is installed" \
      org.opencontainers.image.source="https://github.com/istiod-agent/istiod-agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chmod=0555 bin/linux-${TARGETARCH}/istiod-agent-webhook /istiod-agent-webhook
COPY --chmod=0444 bin/linux-${TARGETARCH}/istiod-agent-webhook.licenses /licenses/istiod-agent-webhook.txt
# The user that is called nonroot elsewhere.
USER 65532:65532
ENTRYPOINT ["/istiod-agent-webhook"]

FROM scratch AS traffic
ARG TARGETARCH
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="istiod-agent-traffic" \
      org.opencontainers.image.description="Connects and calls between clusters for kubectl istiod-agent join and verify --traffic" \
      org.opencontainers.image.source="https://github.com/istiod-agent/istiod-agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chmod=0555 bin/linux-${TARGETARCH}/istiod-agent-traffic /istiod-agent-traffic
COPY --chmod=0444 bin/linux-${TARGETARCH}/istiod-agent-traffic.licenses /licenses/istiod-agent-traffic.txt
# The user that is called nonroot elsewhere.
USER 65532:65532
ENTRYPOINT ["/istiod-agent-traffic"]
